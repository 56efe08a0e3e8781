"""PEFT adapters as the changed model: on a copy of the base, which stays as it is."""

import copy
import json
import sys

import peft
import pytest
import torch
from changed_models import CORPUS, another_width, saved
from sources.models.families import shared

from itda.core.batch import Site
from itda.diffing import adapters, models
from itda.diffing.batches import PairedBatch
from itda.diffing.models import Opening, adapter_fingerprint, open_models
from itda.diffing.pairs import PairedSource
from itda.errors import ModelError
from itda.sources.models.transformers import LanguageModel
from itda.sources.streamed.model import StreamedModel

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
"""peft asks for what transformers calls otherwise now."""


def adapted(model, **options):
    """A copy of a model with a LoRA adapter that does something."""
    wrapped = peft.get_peft_model(
        copy.deepcopy(model.model), peft.LoraConfig(r=4, **{"target_modules": ["q_proj", "down_proj"], **options})
    )
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=draw))
    return wrapped


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folders of a base, an adapter and both merged; and the adapted model in memory."""
    folder, base = tmp_path_factory.mktemp("adapters"), shared("llama")
    wrapped = adapted(base)
    wrapped.peft_config["default"].base_model_name_or_path = str(folder / "base")
    wrapped.save_pretrained(folder / "adapter", save_embedding_layers=False)
    saved(LanguageModel(copy.deepcopy(wrapped).merge_and_unload(), base.tokenizer), folder / "merged")
    return saved(base, folder / "base"), str(folder / "adapter"), str(folder / "merged"), wrapped


def difference(found) -> torch.Tensor:
    source = PairedSource(found.base, found.changed, CORPUS, [Site(2)], window=12, predictions=False)
    return torch.cat([each.changed - each.base for each in source if isinstance(each, PairedBatch)])


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module(model).state_dict().items()}


def module(model) -> torch.nn.Module:
    assert isinstance(model, LanguageModel)
    return model.model


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("in_memory", [True, False])
def test_an_adapter_differs_as_the_merged_model_does_and_leaves_the_base_alone(made, merge, in_memory):
    name, adapter, merged, _ = made
    base = LanguageModel.load(name)
    before = weights(base)
    found = open_models(base if in_memory else name, adapter, opening=Opening(merge=merge))
    expected = difference(open_models(name, merged))
    assert expected.norm() > 1
    torch.testing.assert_close(difference(found), expected, atol=1e-5, rtol=0)
    assert not found.same
    assert module(found.changed) is not module(found.base)
    assert adapters.has_adapter(module(found.changed)) is not merge
    after = weights(found.base)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_an_adapted_model_in_memory_differs_as_its_adapter_does(made):
    name, adapter, _, wrapped = made
    torch.testing.assert_close(
        difference(open_models(name, wrapped)), difference(open_models(name, adapter)), atol=1e-5, rtol=0
    )


def test_an_adapter_in_the_base_itself_is_refused(made):
    wrapped = adapted(shared("llama"))
    base = LanguageModel(wrapped.get_base_model(), shared("llama").tokenizer)
    for other in (wrapped, wrapped.get_base_model(), LanguageModel(base.model, base.tokenizer)):
        with pytest.raises(ModelError, match=r"into the base model itself.*load it a second time$"):
            open_models(base, other)
    assert open_models(base, base).same


def test_adapters_of_another_base_are_refused(made, tmp_path):
    _, adapter, _, _ = made
    others = {
        "wide": (another_width(), "size mismatch"),
        "deep": (another_width(width=32, layers=4), "no base_model.*layers.3"),
        "shallow": (another_width(width=32, layers=2), "no place for base_model.*layers.2"),
        "gpt": (shared("gpt2"), "Target modules .* not found"),
    }
    for name, (model, why) in others.items():
        with pytest.raises(ModelError, match=rf"^the adapter \S+ does not fit \S+ \({why}.*\): name its own base, "):
            open_models(saved(model, tmp_path / name), adapter)


def test_learned_prompts_are_refused(made, tmp_path):
    wrapped = peft.get_peft_model(
        copy.deepcopy(shared("llama").model), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    wrapped.save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(ModelError, match="learned prompt"):
        open_models(made[0], str(tmp_path))
    with pytest.raises(ModelError, match="learned prompt"):
        open_models(made[0], wrapped)


def test_adapters_are_refused_as_a_base_and_on_a_streamed_one_and_without_peft(made, monkeypatch):
    name, adapter, _, _ = made
    with pytest.raises(ModelError, match="is an adapter: name its base model first"):
        open_models(adapter, name)
    with pytest.raises(ModelError, match="a model that is read block by block or runs elsewhere cannot have"):
        open_models(name, adapter, opening=Opening(load=lambda name, _revision: StreamedModel.load(name)))
    monkeypatch.setattr(adapters, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"^reading an adapter needs peft: pip install 'itda\[peft\]'$"):
        open_models(name, adapter)


def test_controls_may_be_adapters_too_and_each_has_a_copy_of_its_own(made):
    name, adapter, _, _ = made
    found = open_models(name, adapter, [adapter, name])
    assert len({id(module(model)) for model in (found.base, found.changed, *found.controls)}) == 3
    assert found.controls[1] is found.base


def test_the_same_model_is_recognised(made, tmp_path):
    name, _, merged, _ = made
    copied = saved(shared("llama"), tmp_path)
    assert open_models(name, copied).same
    assert open_models(name, copied).changed.name == name
    assert not open_models(name, merged).same
    assert open_models(shared("llama"), shared("llama").model).same
    assert not open_models(shared("llama"), copied).same


def test_what_is_no_model_is_refused():
    with pytest.raises(ModelError, match=r"give its name, or load_model\(model, tokenizer\)"):
        open_models(shared("llama").model, "tiny")
    with pytest.raises(ModelError, match="a Linear is no language model"):
        open_models(shared("llama"), torch.nn.Linear(2, 2))


def test_an_adapters_identity_covers_its_configuration(made, tmp_path):
    from pathlib import Path
    from shutil import copytree

    folder = Path(copytree(made[1], tmp_path / "copy"))
    assert adapter_fingerprint(folder) == adapter_fingerprint(Path(made[1]))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 64}))
    assert adapter_fingerprint(folder) != adapter_fingerprint(Path(made[1]))
    assert models.adapter_folder(str(folder)) == folder
    assert models.adapter_folder(made[0]) is None


def test_peft_is_not_imported_for_models_without_adapters(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert open_models(shared("llama"), shared("llama").model).same
