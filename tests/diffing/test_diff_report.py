"""The text of a diff for a terminal: what a person reads first, what cannot be said, and that it fits."""

import pytest
from made_up_diff import NEXT, atom, site, token, values

from itda.report import WIDTH, diff_summary


def fits(text: str) -> bool:
    return max(map(len, text.split("\n"))) <= WIDTH


def test_the_verdict_comes_first_then_atoms_with_text_then_layers():
    text = diff_summary(values())
    assert text.startswith("tiny -> tuned\n\nOf the 3 atoms listed 1 is a finding")
    first = text.index(" 1. layer 3, a finding")
    assert "0.009 nats (45%), 40 tokens of 12 documents" in text[first : first + 80]
    assert text.index("«plum»") > first
    assert text.index("1.50 nats  They went to the market") > first
    assert text.index("layer  moved") > text.index(" 3. layer 1, no finding")
    assert "Left out: 70 first tokens and up to 4 massive activations at a layer." in " ".join(text.split())
    assert fits(text)


@pytest.mark.parametrize(
    ("base", "told"),
    [
        (NEXT, ["promotes   « jam»« pie»\n"]),
        (
            {**NEXT, "promoted": [[" stone", 1.0]]},
            ["promotes   « stone»  in base\n", "promotes   « jam»« pie»  in changed"],
        ),
    ],
)
def test_next_tokens_are_told_once_where_both_models_agree(base, told):
    one = atom(7, "plum", "a", 0.01, base=base, changed=NEXT)
    text = diff_summary(values({"layer_3": site([one])}))
    assert all(line in text for line in told)
    assert text.count("promotes  ") == len(told)
    assert text.count("suppresses") == 1


def test_what_the_mean_difference_promotes_is_told_of_the_layer_where_it_is_largest():
    small, large = site([atom(0, "a", "a", 0.1)]), site([atom(0, "b", "b", 0.1)])
    assert "mean difference" not in diff_summary(values({"layer_1": small, "layer_3": large}))
    small["difference"]["mean"] = {"changed": {"promoted": [[" small", 1.0]], "suppressed": []}}
    large["difference"] |= {"mean": {"base": NEXT, "changed": NEXT}, "mean_share": 0.4}
    text = diff_summary(values({"layer_1": small, "layer_3": large}))
    assert text.endswith("\nThe mean difference of layer 3\n    promotes   « jam»« pie»\n    suppresses « stone»")


def test_nothing_changed_is_all_that_is_said():
    text = diff_summary(values({"layer_1": site([], unchanged=True)}, same=True))
    assert text.startswith("tiny -> tuned\n\nNothing changed: both are the same model, tiny.\n")
    assert "layer  moved" not in text


def test_without_a_control_no_atom_is_called_anything_and_it_says_how_to_get_one():
    text = diff_summary(values(controls=[]))
    assert "finding" not in text
    assert "give --control a model that was trained in the same way" in " ".join(text.split())


def test_without_a_shared_basis_it_lists_what_the_changed_model_alone_needs():
    text = diff_summary(values({"layer_3": site(None)}, why_no_shared_basis="a is 16 wide, and b 8", kl=None))
    assert "layer 3: 1 atoms that only the changed model needs\n        9 uses  " in text
    assert "layer 3: 1 tokens that are new to only the changed model\n    by +0.40  " in text
    assert " 1. layer" not in text
    assert fits(text)


def test_any_text_stays_on_its_line():
    wild = token("\n\t\x1b[2J" * 30, "a" * 200, coefficient=1.0)
    loud = {"promoted": [["\x07bell" * 30, 1.0], ["b\n", 0.5]], "suppressed": []}
    one = {
        **atom(7, "x" * 300, "a", 123.456, base=loud, changed=loud, users=10**7, documents=10**6),
        "examples": [wild],
    }
    text = diff_summary(values({"layer_30.mlp_out": site([one])}, corpus="c" * 300, base={"name": "b" * 300}))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert fits(text)


def test_a_site_where_little_is_known_is_shown():
    bare = site([atom(0, "a", "a", 0.1)], relative_norm=None, usage=None)
    bare["labels"]["interval"] = [None, None]
    row = next(
        line for line in diff_summary(values({"layer_3": bare}, noise=None)).split("\n") if line.startswith("3 ")
    )
    assert row.split() == ["3", "-", "-", "-", "10.0%", ".93", "12/1", "1", "-"]


def test_roles_of_a_conversation_are_told_apart():
    roles = {"template": {"tokens": 300, "kl": 0.001}, "reply": {"tokens": 900, "kl": 0.2}}
    one = atom(7, "plum", "a", 0.01, by_role={"prompt": 0.25, "reply": 0.75})
    text = diff_summary(values({"layer_3": site([one])}, roles=roles))
    told = " ".join(text.split())
    assert "In conversations: template 0.001 (300 tokens), reply 0.2 (900 tokens)." in told
    assert "in prompt 25%, reply 75%" in told
    assert fits(text)
