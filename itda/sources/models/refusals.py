"""Errors in loading a model: those of transformers and the Hub, turned into one line with its own remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from itda.errors import ItdaError, ModelError
from itda.files import is_full

Part = Literal["config", "model", "tokenizer"]

POINTER = b"version https://git-lfs"
PIP = re.compile(r"pip install (?:-U )?[\w\[\]<>=.,\- ]*[\w\]]")
NETWORK = ("couldn't connect", "offline mode", "resolve", "timed out", "connection error", "network is unreachable")
NO_MEMORY = ("not enough memory", "out of memory", "cannot allocate memory", "can't allocate memory")
TOKENIZERS = ("tokenizer*", "vocab*", "spiece.model", "sentencepiece*", "*.tiktoken")


def why_not(name: str, source: str, part: Part | None, error: Exception, gguf: str | None = None) -> ItdaError:
    """Return the error to raise for one in loading a part of a model; `source` is its name for transformers."""
    folder = Path(source) if Path(source).is_dir() else None
    text = " ".join(str(each) for each in _chain(error)).lower()
    remedy = _remedy(name, source, folder, part, error, text, gguf)
    return ModelError(" ".join(remedy.split()))


def check_adapter(name: str, folder: Path) -> None:
    """Raises `ModelError` for an adapter, such as LoRA's: its base model alone is another model."""
    file = folder / "adapter_config.json"
    if not file.exists():
        return
    base = "its base model"
    with suppress(OSError, ValueError, AttributeError):
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") or base
    raise ModelError(
        f"{name} holds an adapter, to be merged into {base} first: merge_and_unload and save_pretrained of peft, then "
        f"name the folder that these make; `itda diff BASE {name}` takes it as it is"
    )


def check_run(name: str, folder: Path) -> None:
    """Raises `ModelError` for dictionaries of ours, where a language model is wanted."""
    if not (folder / "run.json").exists():
        return
    raise ModelError(
        f"{name} holds dictionaries of itda, not a language model: `itda info {name}` names the model that they were "
        "made from"
    )


def _remedy(
    name: str, source: str, folder: Path | None, part: Part | None, error: Exception, text: str, gguf: str | None
) -> str:
    if "trust_remote_code" in text:
        return f"{name} needs code from its repository: read that code, then add --trust-remote-code"
    if any(is_full(each) for each in _chain(error)):
        return f"no space to download {name}: free some, or have HF_HOME name a larger disk"
    if any(isinstance(each, MemoryError) for each in _chain(error)) or any(word in text for word in NO_MEMORY):
        return f"{name} needs more memory than there is: --dtype bfloat16 takes half, --stream little"
    if folder is None and (found := _of_the_hub(name, source, error, text, gguf)) is not None:
        return found
    if any(isinstance(each, PermissionError) for each in _chain(error)):
        return f"the files of {name} may not be read ({_reason(error)}): change their permissions"
    if part == "tokenizer":
        return _of_the_tokenizer(name, folder, error, text, gguf)
    if (package := PIP.search(" ".join(str(each) for each in _chain(error)))) and _is(error, "ImportError"):
        return f"{name} needs a package that is not here: {package[0]}"
    if gguf is not None and ("not supported" in text or "unsupported" in text or _is(error, "NotImplementedError")):
        return f"transformers does not read {gguf} ({_reason(error)}): name the folder of the model it was made from"
    if part == "model" and (found := _of_the_weights(name, folder, error, text)) is not None:
        return found
    if (found := _of_the_configuration(name, folder, error, text)) is not None:
        return found
    return f"cannot load {name} ({_reason(error)}): get its files anew, or try another version of transformers"


def _of_the_hub(name: str, source: str, error: Exception, text: str, gguf: str | None) -> str | None:
    page = f"https://huggingface.co/{source}"
    if _is(error, "GatedRepoError") or "gated repo" in text:
        return f"{name} is gated: ask for access at {page}, then `hf auth login`"
    if _is(error, "RevisionNotFoundError") or "valid git identifier" in text:
        return f"{name} has no such revision: check --revision against {page}/commits"
    if _is(error, "RepositoryNotFoundError", "HFValidationError") or any(
        said in text for said in ("not a valid model identifier", "repo id must", "incorrect path_or_model_id")
    ):
        return (
            f"no model {name!r} on this machine or the Hub: check the spelling, or `hf auth login` for a private or "
            "gated one"
        )
    if "401" in text or "invalid credentials" in text or "invalid user token" in text:
        return f"the Hub does not accept this machine's token for {name}: `hf auth login`"
    if any(word in text for word in NETWORK) or _is(error, "LocalEntryNotFoundError", "ConnectionError"):
        return f"{name} is not on this machine, and the Hub cannot be reached: check the network, or use tiny"
    if "adapter_config" in text:
        return f"{name} holds an adapter: merge it into its base model with peft, and name the folder that this makes"
    if _is(error, "EntryNotFoundError") or "does not appear to have" in text:
        if gguf is not None:
            return f"{name} is not there: check the name of the file at {page}/tree/main"
        return (
            f"{name} lacks files of a transformers model ({_reason(error)}): name one that has a config.json, or a "
            "file in GGUF as owner/name:file.gguf"
        )
    if _is(error, "HfHubHTTPError", "HTTPError"):
        return f"the Hub failed on {name} ({_reason(error)}): try again later"
    return None


def _of_the_tokenizer(name: str, folder: Path | None, error: Exception, text: str, gguf: str | None) -> str:
    has_files = folder is None or any(True for pattern in TOKENIZERS for _ in folder.glob(pattern))
    if gguf is None and (not has_files or "couldn't instantiate" in text or "can't load tokenizer" in text):
        where = str(folder) if folder is not None else "its repository"
        return (
            f"{name} has no tokenizer that can be read: put that of the model it was made from there, by "
            f"AutoTokenizer.from_pretrained(...).save_pretrained({where!r})"
        )
    if package := PIP.search(" ".join(str(each) for each in _chain(error))):
        more = " sentencepiece protobuf" if "tiktoken" in package[0] else ""
        return f"the tokenizer of {name} needs a package that is not here: {package[0]}{more}"
    if gguf is not None:
        return f"transformers cannot rebuild the tokenizer of {gguf} ({_reason(error)}): name the model's own folder"
    return (
        f"the tokenizer of {name} is damaged, or not known to this transformers ({_reason(error)}): download it again"
    )


def _of_the_weights(name: str, folder: Path | None, error: Exception, text: str) -> str | None:
    if "no file named" in text:
        kinds = "model.safetensors, pytorch_model.bin or a .gguf file"
        return f"{name} holds no weights ({kinds}): get the whole model, or check the path"
    if "mismatched_sizes" in text or "size mismatch" in text:
        return f"the weights of {name} do not fit its config.json: get both anew, from one place"
    absent = [each.filename for each in _chain(error) if isinstance(each, FileNotFoundError) and each.filename]
    if absent or _is(error, "FileNotFoundError"):
        return f"{name} is not whole ({_reason(error)}): get the missing file"
    damaged = (
        _is(error, "SafetensorError", "UnpicklingError", "EOFError", "BadZipFile") or "pytorchstreamreader" in text
    )
    found = _damaged(folder) if folder is not None else None
    if found is not None and found[1]:
        return f"{found[0]} is a pointer of git-lfs, not the file itself: `git lfs pull` in {folder}"
    if folder is not None and not any(True for _ in folder.glob("*.safetensors")):
        damaged |= _is(error, "IndexError", "KeyError")  # what reading broken pickles comes to
    if damaged or found is not None:
        what = str(found[0]) if found is not None else f"a file of {name}"
        return f"{what} is damaged or cut short ({_reason(error)}): download it again"
    if "unrecognized configuration class" in text:
        return f"{name} is no language model that transformers' AutoModel loads: use a decoder-only or encoder-only one"
    return None


def _of_the_configuration(name: str, folder: Path | None, error: Exception, text: str) -> str | None:
    if folder is not None and not (folder / "config.json").exists():
        held = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(held[:4]) + ", …" * (len(held) > 4) if held else "nothing"
        return f"{name} has no config.json (it holds {shown}): name the folder of a transformers model"
    if "not a valid json" in text or _is(error, "JSONDecodeError"):
        return f"the config.json of {name} is damaged: download it again"
    if "does not recognize this architecture" in text:
        import transformers

        kind = re.search(r"model type `([^`]*)`", str(error))
        return (
            f"transformers {transformers.__version__} does not know the architecture of {name}"
            f"{f' ({kind[1]})' if kind else ''}: a newer one may, pip install -U transformers"
        )
    if "model_type" in text:
        return f"the config.json of {name} has no model_type, so it is no transformers model: name another folder"
    if _is(error, "StrictDataclassError") or _is(error, "TypeError", "AttributeError", "KeyError"):
        return f"the config.json of {name} is not what transformers expects ({_reason(error)}): download it again"
    return None


def _damaged(folder: Path) -> tuple[Path, bool] | None:
    """Return the first file of weights that cannot be opened, and True if it is a pointer of git-lfs."""
    from safetensors import SafetensorError, safe_open

    for path in sorted((*folder.glob("*.safetensors"), *folder.glob("*.bin"))):
        with suppress(OSError), path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                return path, True
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "pt"):
                    pass
            except (OSError, SafetensorError):
                return path, False
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (error.__context__ if not error.__suppress_context__ else None)


def _is(error: BaseException, *names: str) -> bool:
    """Return True if an error, or one that caused it, has a class of such a name: libraries move their classes."""
    return any(kind.__name__ in names for each in _chain(error) for kind in type(each).__mro__)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".: ")
    if text.startswith("Validation error") and error.args:
        text = text.replace("Validation error for field", "field", 1)
    return text[:160] if text else type(error).__name__
