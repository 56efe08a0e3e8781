"""The index on disk: what is read is what was written, and what cannot be trusted is refused with one line."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sources.models.families import shared

from itda import Labels, Site, SparseCode
from itda.errors import MissingError, StoreError
from itda.explorer.code_index import FOLDER, INDEX_FORMAT, CodeIndex, sample
from itda.explorer.code_index_writer import (
    PARTIAL,
    CodePart,
    TextPart,
    emptied,
    merge,
    parts_of,
    publish,
    write_part,
)
from itda.files import FORMAT_VERSION, finish_replacing, locked, write_json
from itda.sources.corpora.corpus import Corpus

TEXTS = ["the cat sat", "naïve 🙂 日本", "a<bos>dog<pad>b", "", "the cat sat on the mat and ran " * 3, "é"]
SITE, ATOMS, K = Site(2), 7, 3


def masked_groups():
    windower = shared("llama").windower(12)
    return [(g, g.is_activation) for g in windower.groups(Corpus.from_texts(TEXTS), 4)]


def labels():
    return [label for group, mask in masked_groups() for label in group.labels(mask)]


def text_of(groups):
    return TextPart.of(Labels.concatenate([group.labels(mask) for group, mask in groups]))


def codes_of(tokens: int) -> tuple[SparseCode, torch.Tensor]:
    """Made-up codes: shorter ones and empty ones too; the last atom is never used."""
    rng = np.random.default_rng(1)
    indices = np.stack([rng.permutation(ATOMS - 1)[:K] for _ in range(tokens)])
    count = rng.integers(0, K + 1, tokens)
    values = rng.integers(-3, 4, (tokens, K)).astype(np.float32)
    own = np.arange(K) < count[:, None]
    code = SparseCode(*map(torch.from_numpy, (np.where(own, indices, 0), np.where(own, values, 0), count)))
    return code, torch.from_numpy(rng.random(tokens))


def write_index(run, *, at_once=2, groups=None):
    """An index of `TEXTS` in `run`, in parts of so many groups."""
    groups = masked_groups() if groups is None else groups
    code, error = codes_of(sum(int(mask.sum()) for _, mask in groups))
    (run / str(SITE)).mkdir(parents=True, exist_ok=True)
    atoms = run / str(SITE) / "atoms.safetensors"
    if not atoms.exists():
        save_file({"atoms": torch.eye(ATOMS)}, atoms)
    emptied(run / PARTIAL)
    first = 0
    for number, place in enumerate(range(0, len(groups), at_once)):
        several = groups[place : place + at_once]
        own = slice(first, first + sum(int(mask.sum()) for _, mask in several))
        part = SparseCode(code.indices[own], code.coefficients[own], code.count[own])
        codes = {SITE: CodePart.of(part, error[own])}
        write_part(run / PARTIAL, number, 0.5, text_of(several), codes)
        first = own.stop
    whole = run / PARTIAL / "whole"
    merge(parts_of(run / PARTIAL), whole, {SITE: (ATOMS, K)})
    sites = {str(SITE): {"atoms": ATOMS, "k": K, "sample": sample(atoms)}}
    kind = {"format": INDEX_FORMAT, "format_version": FORMAT_VERSION}
    write_json(whole / "index.json", {**kind, "tokens": first, "sites": sites, "pieces": {"5": "F0"}})
    publish(run, whole)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explored") / "run"
    write_index(folder)
    return folder


@pytest.fixture
def copied(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def refused(run) -> str:
    with pytest.raises(StoreError) as error:
        CodeIndex.open(run, SITE)
    text = str(error.value)
    assert "\n" not in text
    assert f"`itda index {run}`" in text
    return text


def test_texts_documents_and_positions_are_those_of_the_labels(run):
    text, expected = CodeIndex.open(run, SITE).text, labels()
    assert text.tokens == len(expected)
    assert text.token_strings(0, text.tokens) == [label.token for label in expected]
    assert "🙂" in text.token_strings(0, text.tokens)  # the text of each of its four tokens
    assert [text.document(t) for t in range(text.tokens)] == [label.document for label in expected]
    assert [text.position(t) for t in range(text.tokens)] == [label.position for label in expected]
    assert text.token_id.tolist() == [label.token_id for label in expected]


def test_a_window_is_the_tokens_that_the_model_saw_together(run):
    text, expected = CodeIndex.open(run, SITE).text, labels()
    for token, label in enumerate(expected):
        first, last = text.window(token)
        assert first <= token < last
        together = [t for t, other in enumerate(expected) if _window(other) == _window(label)]
        assert list(range(first, last)) == together


def _window(label):
    return label.document, label.char_start - len(label.before), label.before + label.token + label.after


def test_token_strings_around_stay_in_the_window(run):
    text = CodeIndex.open(run, SITE).text
    for token in range(text.tokens):
        first, last = text.window(token)
        around = text.token_strings_around(token, 3, 2)
        assert around == text.token_strings(max(first, token - 3), min(last, token + 3))


def test_bytes_of_tokens_that_are_not_whole_characters(run):
    text = CodeIndex.open(run, SITE).text
    for token in range(text.tokens):
        assert text.partial(token) == ("F0" if text.token_id[token] == 5 else None)
        assert text.partials(token, token + 1) == ({token: "F0"} if text.token_id[token] == 5 else {})


def test_codes_by_token(run):
    index = CodeIndex.open(run, SITE)
    code, error = codes_of(index.tokens)
    assert (index.atoms, index.k) == (ATOMS, K)
    for token in range(index.tokens):
        n = int(code.count[token])
        atoms, coefficients = index.codes(token)
        assert atoms.tolist() == code.indices[token, :n].tolist()
        assert coefficients.tolist() == code.coefficients[token, :n].tolist()
    starts, atoms, coefficients = index.codes_between(5, 20)
    assert starts.tolist() == [0, *code.count[5:20].cumsum(0).tolist()]
    assert atoms.tolist() == [a for t in range(5, 20) for a in index.codes(t)[0].tolist()]
    assert len(coefficients) == len(atoms)
    assert index.codes_between(4, 4)[0].tolist() == [0]
    assert np.array_equal(index.errors(3, 9), error[3:9].float().numpy())


def test_uses_by_atom(run):
    index = CodeIndex.open(run, SITE)
    code, _ = codes_of(index.tokens)
    for atom in range(ATOMS):
        rows, steps = ((code.indices == atom) & (torch.arange(K) < code.count[:, None])).nonzero().T.tolist()
        found = [(t, code.coefficients[t, s].item()) for t, s in zip(rows, steps, strict=True)]
        tokens, coefficients = index.uses(atom)
        ranked = sorted(found, key=lambda use: (-use[1], use[0]))
        assert list(zip(tokens.tolist(), coefficients.tolist(), strict=True)) == ranked
        assert index.counts[atom] == len(found)
        assert index.strongest[atom] == (ranked[0][1] if ranked else 0)
        assert index.steps(atom).tolist() == [steps.count(step) for step in range(K)]
    assert index.counts[-1] == 0


def test_the_whole_does_not_depend_on_the_parts(run, tmp_path):
    for at_once in (1, 3, 100):
        write_index(tmp_path / str(at_once), at_once=at_once)
        for name in ("text.safetensors", f"{SITE}.safetensors"):
            assert (tmp_path / str(at_once) / FOLDER / name).read_bytes() == (run / FOLDER / name).read_bytes()


def test_a_token_past_the_budget_is_not_there(tmp_path):
    cut = [(g, mask & (mask.flatten().cumsum(0).view_as(mask) <= 2)) for g, mask in masked_groups()[:1]]
    write_index(tmp_path, groups=cut)
    text = CodeIndex.open(tmp_path, SITE).text
    assert text.tokens == 2
    assert text.token_strings(0, 2) == [label.token for label in labels()[:2]]


def test_what_is_not_there_is_missing(run):
    index = CodeIndex.open(run, SITE)
    asked = [lambda: index.codes(index.tokens), lambda: index.codes(-1), lambda: index.uses(ATOMS)]
    asked += [lambda: index.steps(-1), lambda: index.text.window(index.tokens), lambda: index.errors(3, 2)]
    asked += [lambda: index.text.token_strings(0, index.tokens + 1), lambda: index.text.partial(-1)]
    for ask in asked:
        with pytest.raises(MissingError, match=r"use 0 to \d+$"):
            ask()


def test_no_index_and_no_such_site(tmp_path, run):
    with pytest.raises(StoreError, match="has no index: make one with `itda index"):
        CodeIndex.open(tmp_path, SITE)
    with pytest.raises(StoreError, match="lacks layer_5: make one with"):
        CodeIndex.open(run, Site(5))


@pytest.mark.parametrize("name", ["index.json", "text.safetensors", f"{SITE}.safetensors"])
@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.97, None])
def test_a_file_cut_short_or_gone_is_refused(copied, name, kept):
    file = copied / FOLDER / name
    if kept is None:
        file.unlink()
    else:
        os.truncate(file, kept if kept >= 1 else int(file.stat().st_size * kept))
    with pytest.raises(StoreError) as error:
        CodeIndex.open(copied, SITE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["text.safetensors", f"{SITE}.safetensors"])
def test_foreign_files_and_parts_that_do_not_fit_are_refused(copied, name):
    file = copied / FOLDER / name
    tensors = load_file(file)
    save_file({"weights": torch.ones(3)}, file)
    assert "is not a file of an index" in refused(copied)
    for cut in (name for name, tensor in tensors.items() if len(tensor)):
        save_file({n: t[:-1].contiguous() if n == cut else t for n, t in tensors.items()}, file)
        assert "damaged" in refused(copied)


@pytest.mark.parametrize(
    "damage", [{"sites": None}, {"tokens": "many"}, {"pieces": {"x": 1}}, {"sites": {str(SITE): {}}}]
)
def test_a_record_that_makes_no_sense_is_refused(copied, damage):
    file = copied / FOLDER / "index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
    assert "damaged" in refused(copied)


def test_the_index_of_another_dictionary_is_refused(copied):
    save_file({"atoms": torch.eye(ATOMS).flip(0).contiguous()}, copied / str(SITE) / "atoms.safetensors")
    assert "is of another dictionary than layer_2 of the run is now" in refused(copied)


def test_every_accessor_refuses_a_file_that_has_changed(copied):
    index = CodeIndex.open(copied, SITE)
    os.truncate(copied / FOLDER / f"{SITE}.safetensors", 100)  # reading what was cut off would end the process
    for ask in (lambda: index.codes(0), lambda: index.uses(0), lambda: index.errors(0, 1), lambda: index.steps(0)):
        with pytest.raises(StoreError, match=r"has changed or is gone: open it again, or run `itda index .*` again$"):
            ask()
    (copied / FOLDER / "text.safetensors").unlink()
    for ask in (lambda: index.text.token_strings(0, 1), lambda: index.text.document(0), lambda: index.text.partial(0)):
        with pytest.raises(StoreError, match="has changed or is gone"):
            ask()


def test_parts_after_one_that_is_damaged_are_made_again(tmp_path):
    emptied(tmp_path)
    for number, (group, mask) in enumerate(masked_groups()):
        code, error = codes_of(int(mask.sum()))
        write_part(tmp_path, number, 0.1, text_of([(group, mask)]), {SITE: CodePart.of(code, error)})
    assert len(parts_of(tmp_path)) == len(masked_groups()) > 2
    os.truncate(tmp_path / "part-000001.safetensors", 200)
    assert [part.file.name for part in parts_of(tmp_path)] == ["part-000000.safetensors"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("killed_at", ["before", "between the renames", "after"])
def test_wherever_publishing_is_killed_the_new_index_takes_its_place(copied, killed_at):
    new, old = copied / ".index.new", copied / ".index.old"  # as an older itda may have left them
    shutil.copytree(copied / FOLDER, new)
    (new / "mark").touch()
    if killed_at == "between the renames":
        (copied / FOLDER).rename(old)
    elif killed_at == "after":
        (copied / FOLDER).rename(old)
        new.rename(copied / FOLDER)
    finish_replacing(copied / FOLDER)
    assert (copied / FOLDER / "mark").exists()
    assert not new.exists()
    assert not old.exists()


def test_who_has_the_old_index_mapped_still_has_it_whole(copied):
    old = load_file(copied / FOLDER / "text.safetensors")["text"]
    before = old.clone()
    write_index(copied, groups=masked_groups()[:1])
    assert torch.equal(old, before)


def test_one_process_at_a_time(tmp_path):
    with (
        locked(tmp_path, "indexed"),
        pytest.raises(StoreError, match="is being indexed by another process: wait for it"),
        locked(tmp_path, "indexed"),
    ):
        pass
    with locked(tmp_path, "indexed"):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="make room for it"):
        emptied(tmp_path / "file" / "within")
