"""benchmarks/large_blocks.py in a small form: blocks on disk, their times beside the plan, the same bits in memory."""

import json

import large_blocks
import pytest
import torch
from safetensors import safe_open

from itda.recipes.rates_kept import Measured
from itda.sources.streamed.rates import Cost, DictionaryCosts

SHAPE = {"width": 64, "heads": 4, "kv_heads": 1, "inner": 208}


class Rows:
    """Rows of results, in memory."""

    def __init__(self, measured: Measured) -> None:
        self._measured = measured.values()

    def find(self, key):
        return self._measured if key["part"] == "measure" else None


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_blocks, "NOISE", 10_007)
        large_blocks.make_blocks(folder, SHAPE, 3)
    return folder


def test_each_block_is_a_file_of_its_own_and_no_two_rows_are_alike(blocks):
    names = {path.name for path in blocks.glob("*.safetensors")}
    assert names == {"model-0.safetensors", "model-1.safetensors", "model-2.safetensors", "model-outside.safetensors"}
    with safe_open(blocks / "model-1.safetensors", "pt") as file:
        up = file.get_tensor("model.layers.1.mlp.up_proj.weight")
        assert file.get_tensor("model.layers.1.input_layernorm.weight").tolist() == [1.0] * 64
    assert (up.dtype, up.shape) == (torch.bfloat16, (208, 64))
    assert len(up.unique(dim=0)) == 208
    assert up.float().square().sum(dim=1).mean().item() == pytest.approx(1, rel=0.1)


def test_streamed_and_in_memory_give_the_same_dictionaries_and_the_plan_stands_beside_each_part(blocks, monkeypatch):
    monkeypatch.setitem(large_blocks.SHAPES, "small", SHAPE)
    about = {"shape": "small", "blocks": 3, "tokens": 300, "threshold": 0.2}
    task = {"budget": 2**30, **about}
    found = {part: large_blocks.make_dictionaries(blocks, {**task, "part": part}) for part in ("streamed", "memory")}
    assert found["streamed"]["sha256"] == found["memory"]["sha256"]
    assert [each["layer"] for each in found["streamed"]["blocks"]] == [0, 1, 2]
    assert set(found["streamed"]["atoms"]) == {"layer_0", "layer_2"}
    assert all(0 < count <= 300 for count in found["streamed"]["atoms"].values())

    slow = DictionaryCosts(Cost(1.0, 0.0), Cost(0.5, 0.0), Cost(0.5, 0.0))
    measured = Measured("2026-11-26", 1e6, "a file", None, {"cpu": 1e9}, {"cpu": slow}, {"cpu": (100,)}, 1.0)
    key = {"part": "streamed", **about}
    said = large_blocks.predicted(blocks, key, found["streamed"], Rows(measured))
    assert said is not None
    block = 2 * (64 * 64 * 2 + 64 * 16 * 2 + 3 * 64 * 208 + 2 * 64)
    assert said["read"] == block / 1e6
    assert said["bytes_read"] == found["streamed"]["weights_read"] == 3 * block
    assert said["growth"] == {"layer_0": 150.0, "layer_2": 150.0}

    row = {**found["streamed"], "key": key, "block": block, "said": said}
    text = "\n".join(large_blocks.report_of({"streamed": row, "memory": found["memory"]}))
    assert "weights of blocks read, GB | 0.000302 | 0.000302 | 1.00 |" in text
    assert "equal to the bit" in " ".join(text.split())
    assert "NOT EQUAL" in large_blocks.equality({"streamed": row, "memory": {**found["memory"], "sha256": "0"}})
    json.dumps(row)


def test_blocks_that_the_disk_has_no_room_for_are_not_begun(tmp_path):
    with pytest.raises(SystemExit, match=r"9999999 blocks take .* GB, .* has .*: --blocks \d+"):
        large_blocks.check_room(tmp_path / "new" / "model", large_blocks.SHAPES["405B"], 9_999_999)
