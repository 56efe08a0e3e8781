"""The summary of a diff: one list of atoms over all sites, a verdict, each site beside its noise."""

import json

from made_up_diff import NOISE, SIZES, atom, site, values

from itda.diffing.summary import SHOWN, summary


def test_atoms_of_all_sites_are_one_ranking_and_of_one_document_the_first_is_listed():
    atoms = summary(values())["atoms"]
    assert [(each["rank"], each["site"], each["atom"]) for each in atoms] == [
        (1, "layer_3", 7),
        (2, "layer_3", 2),
        (3, "layer_1", 3),
    ]
    assert [each["finding"] for each in atoms] == [True, False, False]
    assert atoms[0]["share"] == 0.009 / 0.02


def test_without_a_control_nothing_is_a_finding_or_none():
    found = summary(values(controls=[]))
    assert {each["finding"] for each in found["atoms"]} == {None}
    assert "Only a control can tell" in found["verdict"][-1]


def test_the_verdict_counts_findings_and_names_the_control():
    assert summary(values())["verdict"] == [
        "Of the 3 atoms listed 1 is a finding: it stands out more than 3 times as far as anything in neutral does, "
        "4.5 times at most."
    ]
    quiet = values({"layer_3": site([atom(2, "the", "the.txt", 0.001)])})
    assert summary(quiet)["verdict"][0].startswith("Nothing stands out more than 3 times")


def test_the_verdict_says_when_a_control_is_unlike_the_changed_model_or_says_nothing():
    def told(median, strongest=0.001):
        made = values()
        made["kl"] |= {"control_medians": [median]}
        for each in made["sites"].values():
            each["difference"]["strongest_of_controls"] = [strongest]
        return summary(made)["verdict"][0]

    assert "typical token" not in told(0.011)
    assert told(0.005).endswith(
        "But at a typical token tuned moved 4 times as far as neutral: one of them was trained more, or the change is "
        "nearly everywhere, and findings say less."
    )
    assert "0.4 times as far as neutral" in told(0.05)
    assert told(0.0, 0.0).startswith("Nothing can be called a finding: neutral has nothing of its own on this text.")


def test_findings_are_listed_before_what_is_stronger_but_none_and_keep_their_rank():
    plain = [atom(i, "a", f"{i}.txt", 1.0 - i / 100) for i in range(SHOWN + 3)]
    weak = atom(99, "b", "weak.txt", 0.001, finding=True, beyond=0.5)
    hidden = atom(98, "c", "0.txt", 0.5, finding=True)
    found = summary(values({"layer_3": site([*plain, hidden, weak])}))["atoms"]
    assert len(found) == SHOWN
    assert [each["atom"] for each in found if each["finding"]] == [98, 99]
    assert [each["effect"] for each in found] == sorted((each["effect"] for each in found), reverse=True)
    assert found[-1]["times"] == 500


def test_nothing_changed_is_an_answer_and_is_the_only_one():
    same = {name: site([], unchanged=True) for name in ("layer_1", "layer_3")}
    assert summary(values(same, same=True))["verdict"] == ["Nothing changed: both are the same model, tiny."]
    assert summary(values(same))["verdict"] == [
        "Nothing changed: at all 2 sites that were read both models compute the same at each of 5,004 tokens."
    ]
    assert summary(values(same))["unchanged"]
    assert not summary(values())["unchanged"]


def test_a_site_like_its_noise_at_every_quantile_is_called_noise_and_one_beyond_it_anywhere_is_not():
    def told(layer_1, layer_3):
        sizes = {"layer_1": layer_1, "layer_3": layer_3}
        return summary(values({name: site([], relative_norm=size) for name, size in sizes.items()}))["verdict"][0]

    twice = {share: 2 * value for share, value in NOISE.items()}
    assert told(twice, NOISE).startswith("Nothing changed beyond noise: at all sites")
    assert told(NOISE, SIZES).startswith("At layer_1 the difference is no larger")
    assert told({**NOISE, "1": 0.5}, SIZES).startswith("Nothing stands out")


def test_without_predictions_the_list_is_by_energy():
    atoms = [atom(0, "a", "a.txt", None, energy=0.1), atom(1, "b", "b.txt", None, energy=0.3)]
    here = site(atoms)
    here["difference"] |= {"ranked_by": "energy", "total_kl": None}
    found = summary(values({"layer_3": here}, kl=None))
    assert [each["atom"] for each in found["atoms"]] == [1, 0]
    assert (found["by"], found["kl"], found["control_kl"]) == ("energy", None, [])
    assert {each["finding"] for each in found["atoms"]} == {None}


def test_without_a_shared_basis_there_is_no_list_and_the_reason_is_told():
    found = summary(values({"layer_3": site(None)}, why_no_shared_basis="a is 16 wide, and b 8"))
    assert (found["by"], found["atoms"]) == (None, [])
    assert "(a is 16 wide, and b 8)" in found["verdict"][0]


def test_each_site_has_its_noise_and_all_is_json():
    found = summary(values())
    assert [each["site"] for each in found["sites"]] == ["layer_1", "layer_3"]
    assert {str(each["noise"]) for each in found["sites"]} == {str({"batch_size 4": NOISE})}
    assert "atoms" not in found["sites"][0]["difference"]
    assert summary(values(noise=None))["sites"][0]["noise"] == {}
    json.dumps(found, allow_nan=False)


def test_names_are_those_of_folders_and_counts_those_left_out():
    found = summary(values())
    assert (found["base"], found["changed"], found["controls"], found["corpus"]) == (
        "tiny",
        "tuned",
        ["neutral"],
        "market",
    )
    assert (found["massive"], found["first_left_out"]) == (4, 70)


def test_a_long_list_is_cut():
    many = [atom(i, "a", f"{i}.txt", 1.0 - i / 100) for i in range(SHOWN + 5)]
    assert len(summary(values({"layer_3": site(many)}))["atoms"]) == SHOWN
