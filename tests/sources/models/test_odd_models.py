"""Models of several parts, encoders, and models of unusual form: the text model's blocks are read, or it is refused."""

import pytest
import torch
import transformers
from sources.models.families import COMMON, STREAMS, byte_tokenizer, ragged_group, real
from transformers import PreTrainedModel

from itda.core.batch import ActivationBatch, Site
from itda.core.labels import Label, Labels
from itda.core.training.trainer import Trainer
from itda.errors import ModelError, SettingError
from itda.evaluation.evaluate import evaluate_groups
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource
from itda.sources.streamed.model import StreamedModel

CORPUS = Corpus.from_texts(["the cat sat on the mat. " * 3, "a dog ran"])
TEXT = dict(COMMON, intermediate_size=48, num_key_value_heads=2)
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
PICTURES = dict(TOWER, image_size=8, patch_size=4)
SOUNDS = {"num_mel_bins": 8, "max_source_positions": 20}


def qwen2_audio():
    sounds = dict(
        SOUNDS, d_model=16, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=24, num_hidden_layers=3
    )
    text = dict(TEXT, model_type="qwen2")
    config = transformers.Qwen2AudioConfig(audio_config=sounds, text_config=text, audio_token_index=5)
    return transformers.Qwen2AudioForConditionalGeneration(config)


def voxtral():
    text = dict(TEXT, model_type="llama", head_dim=8)
    config = transformers.VoxtralConfig(audio_config={**TOWER, **SOUNDS}, text_config=text, audio_token_id=5)
    return transformers.VoxtralForConditionalGeneration(config)


def qwen3_vl():
    pictures = {"depth": 3, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 14}
    pictures |= {"out_hidden_size": 32, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1]}
    text = dict(TEXT, model_type="qwen3_vl_text", head_dim=8, rope_scaling=rope)
    places = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
    config = transformers.Qwen3VLConfig(vision_config=pictures, text_config=text, **places)
    return transformers.Qwen3VLForConditionalGeneration(config)


def gemma_3():
    text = dict(TEXT, head_dim=8, sliding_window=8)
    config = transformers.Gemma3Config(vision_config=PICTURES, text_config=text, mm_tokens_per_image=4)
    return transformers.Gemma3ForConditionalGeneration(config)


def llava():
    pictures, text = dict(PICTURES, model_type="clip_vision_model"), dict(TEXT, model_type="llama")
    config = transformers.LlavaConfig(vision_config=pictures, text_config=text, image_token_index=5)
    return transformers.LlavaForConditionalGeneration(config)


def t5_encoder():
    sizes = {"vocab_size": COMMON["vocab_size"], "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
    return transformers.T5EncoderModel(transformers.T5Config(**sizes))


def gpt():
    sizes = {"vocab_size": COMMON["vocab_size"], "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**sizes))


def mpt():
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 3, "expansion_ratio": 2, "max_seq_len": 64}
    return transformers.MptForCausalLM(transformers.MptConfig(vocab_size=COMMON["vocab_size"], **sizes))


def encoder(name: str, **more):
    return lambda: getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**COMMON, **more))


def xlnet():
    sizes = {"vocab_size": COMMON["vocab_size"], "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48}
    return transformers.XLNetLMHeadModel(transformers.XLNetConfig(**sizes))


def xlm(name: str):
    sizes = {"vocab_size": COMMON["vocab_size"], "emb_dim": 32, "n_layers": 3, "n_heads": 4}
    make = lambda: getattr(transformers, f"{name}Config")(**sizes, max_position_embeddings=64)  # noqa: E731
    return lambda: getattr(transformers, f"{name}Model")(make())


def funnel():
    sizes = {"vocab_size": COMMON["vocab_size"], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48}
    return transformers.FunnelModel(transformers.FunnelConfig(block_sizes=[1, 1, 1], **sizes))


def blip_2():
    text = {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32, **COMMON}
    middle = dict(TOWER, encoder_hidden_size=16)
    config = transformers.Blip2Config(vision_config=PICTURES, qformer_config=middle, text_config=text)
    return transformers.Blip2ForConditionalGeneration(config)


READ = {  # with the path of a block, the most tokens, and whether it predicts the next one
    "qwen2-audio": (qwen2_audio, "language_model", 64, True),
    "voxtral": (voxtral, "language_model", 64, True),
    "qwen3-vl": (qwen3_vl, "language_model", 64, True),
    "gemma-3": (gemma_3, "language_model", 64, True),
    "llava": (llava, "language_model", 64, True),
    "t5-encoder": (t5_encoder, "encoder.block", None, False),
    "openai-gpt": (gpt, "transformer.h", 64, True),
    "mpt": (mpt, "transformer.blocks", 64, True),
    "roberta": (encoder("Roberta", intermediate_size=48), "encoder.layer", 62, False),
    "mpnet": (encoder("MPNet", intermediate_size=48), "encoder.layer", 62, False),
}
REFUSED = {
    "xlnet": (xlnet, r"returns \[7, 2, 32\] where windows, tokens and d_model are \[2, 7, 32\]"),
    "xlm": (xlm("XLM"), "has a list of MultiHeadAttention where others have blocks"),
    "flaubert": (xlm("Flaubert"), "has a list of MultiHeadAttention where others have blocks"),
    "funnel": (funnel, "has a list of ModuleList where others have blocks"),
    "squeezebert": (encoder("SqueezeBert", intermediate_size=32, embedding_size=32), "does not call its block 0"),
    "blip-2": (blip_2, "does not run on text alone .*pixel_values"),
}


def saved(make, folder, tokenizer=None) -> str:
    torch.manual_seed(0)
    model: PreTrainedModel = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return str(folder)


def read(model, site):
    batches = ModelSource(model, CORPUS, [site], window=16, batch_size=2)
    return torch.cat([batch[site].activations for batch in batches])


@pytest.mark.parametrize("name", READ)
def test_the_text_models_blocks_are_read_in_memory_and_streamed(name, tmp_path):
    make, path, context, causal = READ[name]
    folder = saved(make, tmp_path)
    ordinary, streamed = LanguageModel.load(folder, device="cpu"), StreamedModel.load(folder, device="cpu", head=True)
    assert path in next(
        n for n, module in ordinary.model.named_modules() if module is ordinary.places([Site(1)])[Site(1)].module
    )
    for model in (ordinary, streamed.inner):
        assert (model.layers, model.d_model, model.context, model.is_causal) == (3, 32, context, causal)
    group = ragged_group(ordinary)
    with torch.inference_mode():
        output = ordinary.forward(ordinary.model, group, output_hidden_states=True)
    hidden = getattr(output, "hidden_states", None)
    found = ordinary.activations(group, [Site(1)])[Site(1)]
    if hidden is not None:
        assert torch.equal(found[real(group)], hidden[2][real(group)])
    for stream in STREAMS:
        assert torch.equal(read(ordinary, Site(1, stream)), read(streamed, Site(1, stream)))
    if context is not None:
        read_at_most = ModelSource(ordinary, CORPUS, [Site(0)], window=context, batch_size=1)
        assert sum(len(batch[Site(0)]) for batch in read_at_most)
        with pytest.raises(SettingError, match=f"the model reads at most {context}"):
            ModelSource(ordinary, CORPUS, [Site(0)], window=context + 1)


@pytest.mark.parametrize("load", [LanguageModel.load, StreamedModel.load], ids=["in memory", "streamed"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_model_of_another_form_is_refused_in_one_line_before_anything_runs(name, load, tmp_path):
    make, match = REFUSED[name]
    with pytest.raises(ModelError, match=match) as error:
        ModelSource(load(saved(make, tmp_path), device="cpu"), CORPUS, [Site(1)], window=16)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gemma-3", "llava"])
def test_a_model_of_several_parts_is_evaluated_with_its_head(name, tmp_path):
    model = LanguageModel.load(saved(READ[name][0], tmp_path), device="cpu")
    trainer = Trainer(d_model=32, k=4, threshold=0.3)
    for batch in ModelSource(model, CORPUS, [Site(1)], window=16):
        trainer.offer(batch[Site(1)])
    groups = lambda: model.windower(16).groups(CORPUS, 2)  # noqa: E731
    found = evaluate_groups(model, groups, {Site(1): trainer.finish()})[Site(1)]
    assert found.ce_clean is not None
    assert found.ce_clean > 0


def test_a_pad_token_that_the_embedding_lacks_is_not_shown_to_the_model(tmp_path):
    tokenizer = byte_tokenizer(bos=False)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    config = transformers.LlamaConfig(**{**TEXT, "vocab_size": len(tokenizer) - 1})
    model = LanguageModel(transformers.LlamaForCausalLM(config), tokenizer)
    assert tokenizer.pad_token_id == config.vocab_size
    assert read(model, Site(1)).isfinite().all()


def test_a_token_that_the_embedding_lacks_is_one_line(tmp_path):
    config = transformers.LlamaConfig(**{**TEXT, "vocab_size": 20})
    model = LanguageModel(transformers.LlamaForCausalLM(config), byte_tokenizer(), "small")
    with pytest.raises(ModelError, match=r"the text has token \d+, and small has embeddings for 20 tokens: ") as error:
        read(model, Site(1))
    assert "\n" not in str(error.value)


def rows(count: int) -> Labels:
    return Labels.of(*(Label("d", i, i, i + 1, i, "", "x", "") for i in range(count)))


def test_zeros_are_no_atoms_also_where_they_come_first():
    trainer = Trainer(d_model=8, k=2, threshold=0.2)
    trainer.offer(ActivationBatch(torch.zeros(5, 8), rows(5)))
    trainer.offer(ActivationBatch(torch.eye(8)[:5], rows(5)))
    assert torch.equal(trainer.finish().atoms, torch.eye(8)[:5])


def test_attention_that_is_still_zero_makes_no_atoms():
    model = LanguageModel(transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)), byte_tokenizer())
    torch.nn.init.zeros_(model.places([Site(1, "attn_out")])[Site(1, "attn_out")].module.o_proj.weight)  # pyright: ignore[reportAttributeAccessIssue]
    found = read(model, Site(1, "attn_out"))
    assert not found.any()
    trainer = Trainer(d_model=32, k=2, threshold=0.2)
    trainer.offer(ActivationBatch(found, rows(len(found))))
    assert len(trainer.finish()) == 0
