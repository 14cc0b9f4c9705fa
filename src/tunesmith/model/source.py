"""Where a model comes from, and whether it may be loaded: a packaged model, a local folder or the hub.

Everything is judged by file names and by config.json before a single weight is read. Knows nothing of tensors.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub import errors as hub_errors
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tunesmith.config import BUILTIN_PREFIX, find_builtin
from tunesmith.errors import ResourceError

WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"),
    *("sentencepiece.bpe.model", "tekken.json"),
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
HUB_TIMEOUT_SECONDS = 5.0
# Above this many bytes of weights only their headers and sizes are hashed: reading all would take longer than loading.
FULLY_HASHED_BYTES = 2 * 2**30
TOKEN_FIX = "give a token (set HF_TOKEN or run `hf auth login`) or a path to a local folder"


@dataclass(frozen=True, slots=True)
class Source:
    """A model that passed the checks. `location` is what from_pretrained gets; `folder` is set when it is local.

    `commit` pins a hub model; `only_cached` says that the hub cannot be asked.
    """

    name: str
    location: str
    folder: Path | None = None
    commit: str | None = None
    only_cached: bool = False


def find_source(path: str, revision: str | None = None) -> Source:
    """Resolve `builtin:name`, a local folder or a hub id, and refuse what must not or cannot be loaded.

    Raises:
        ResourceError: nothing there, unreachable, gated, no safetensors weights, an unknown architecture, an adapter
            instead of a model, or a config.json that asks for code.
    """
    if path.startswith(BUILTIN_PREFIX):
        folder = find_builtin(path)
    elif Path(path).expanduser().exists():
        folder = Path(path).expanduser()
    elif HUB_ID.fullmatch(path):
        return _find_on_hub(path, revision)
    else:
        raise ResourceError(f"there is no folder {path!r}", fix=_nearest_folder(Path(path).expanduser()))
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        raise _adapter_error(path, f"it was trained on {base!r}")
    if not folder.is_dir():
        raise ResourceError(
            f"{path!r} is a file; a model is a folder with config.json, safetensors weights and a tokenizer",
            fix="GGUF files cannot be trained; give the folder the weights came from"
            if folder.suffix == ".gguf"
            else f"give the folder: {folder.parent}",
        )
    _check_files(path, _list_files(folder))
    _check_config(path, read_json(folder / "config.json"))
    _check_shards(path, folder)
    return Source(path, str(folder), folder=folder)


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a model's folder.

    Raises:
        ResourceError: unreadable, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResourceError(
            f"{path} cannot be read as JSON", cause=str(error), fix="copy or download the model again"
        ) from error
    if not isinstance(content, dict):
        raise ResourceError(f"{path} must hold a JSON object, found {type(content).__name__}", fix="download it again")
    return content


def compute_fingerprint(folder: Path) -> str:
    """What a local model is recognised by: SHA-256 over config.json and its safetensors files in order of name.

    "sha256:..." covers every byte. Above 2 GiB of weights it is "sha256-headers:...", which covers the header (names,
    types, shapes, offsets) and the size of each file, but not the numbers.
    """
    files = sorted(folder.glob("*.safetensors"))
    complete = sum(file.stat().st_size for file in files) <= FULLY_HASHED_BYTES
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in files:
        digest.update(f"\n{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            if complete:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
            else:
                header_bytes = int.from_bytes(stream.read(8), "little")
                digest.update(stream.read(header_bytes))
    return f"{'sha256' if complete else 'sha256-headers'}:{digest.hexdigest()}"


def refuse_code(where: str, content: object) -> None:
    """Refuse settings that make a library run code from a model repository.

    auto_map beside a model_type that transformers has itself is left over from before it did (older microsoft/Phi-3
    repositories): it is never followed, since trust_remote_code stays off. Elsewhere it is refused: it names the
    Python files to import. `*_internal` keys and attention or expert implementations with a repository
    name reach code with trust_remote_code off (CVE-2026-4372); nested trust flags switch it on.

    Raises:
        ResourceError: naming each such key.
    """
    found = {key for key, value in _walk_keys(content) if _asks_for_code(key, value)}
    if isinstance(content, dict) and str(content.get("model_type")) in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        found.discard("auto_map")
    if found:
        raise ResourceError(
            f"{where} asks for code to be run while the model is loaded: {', '.join(sorted(found))}",
            cause="a model is data here: code from a model repository is never run",
            fix="delete these keys in a local copy if you trust the weights, or choose another model",
        )


def _find_on_hub(repo: str, revision: str | None) -> Source:
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
        names = [sibling.rfilename for sibling in info.siblings or []]
        _check_files(repo, names)
        # By name, so that the cache learns which commit the name stands for; all other files come from that commit.
        config = Path(huggingface_hub.hf_hub_download(repo, "config.json", revision=revision))
    except hub_errors.HFValidationError as error:
        raise ResourceError(
            f"there is no folder {repo!r}, and it is not a hub id",
            cause=str(error),
            fix="check the path; a hub id is written org/name",
        ) from error
    except hub_errors.GatedRepoError as error:
        raise ResourceError(
            f"the hub model {repo!r} is gated and this machine has no access to it",
            cause=_first_line(error),
            fix=f"ask for access at https://huggingface.co/{repo}, then {TOKEN_FIX}",
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise ResourceError(
            f"the hub model {repo!r} has no revision {revision!r}", fix="set model.revision to a branch, tag or commit"
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ResourceError(
            f"there is neither a folder nor a public hub model named {repo!r}",
            cause=_first_line(error),
            fix=f"check the spelling; for a private model {TOKEN_FIX}",
        ) from error
    except (OSError, hub_errors.HTTPError) as error:  # type: ignore[attr-defined]  # of httpx or httpx2
        return _find_in_cache(repo, revision, unreachable=error)
    _check_config(repo, read_json(config))
    return Source(repo, repo, commit=config.parent.name)


def _find_in_cache(repo: str, revision: str | None, *, unreachable: Exception) -> Source:
    cached = huggingface_hub.try_to_load_from_cache(repo, "config.json", revision=revision)
    if not isinstance(cached, str):
        answered = isinstance(unreachable, hub_errors.HfHubHTTPError)
        hub = "answered with an error" if answered else "cannot be reached"
        raise ResourceError(
            f"there is no folder {repo!r}, the hub {hub}, and the model is not in its local cache",
            cause=_first_line(unreachable),
            fix=f"connect (and unset HF_HUB_OFFLINE); for a private or gated model {TOKEN_FIX}",
        ) from unreachable
    snapshot = Path(cached).parent
    _check_files(repo, _list_files(snapshot))
    _check_config(repo, read_json(Path(cached)))
    return Source(repo, repo, commit=snapshot.name, only_cached=True)


def _check_files(where: str, names: Iterable[str]) -> None:
    """Judge a model by its file names: the same for a folder and for a hub repository."""
    names = sorted(names)
    top = [name for name in names if "/" not in name]
    if "adapter_config.json" in top:
        raise _adapter_error(where, "it has an adapter_config.json, which names its base")
    if "config.json" not in top:
        inner = [name for name in names if PurePosixPath(name).name in ("config.json", "adapter_config.json")]
        raise ResourceError(
            f"{where!r} has no config.json, so it is no model",
            cause=f"found there: {_list_names(top or names)}",
            fix=f"did you mean {where.rstrip('/')}/{PurePosixPath(inner[0]).parent}?"
            if inner
            else "give the folder that holds config.json, *.safetensors and the tokenizer",
        )
    if any(name.endswith(".safetensors") for name in top):
        if not set(TOKENIZER_FILES) & set(top):  # transformers would make up an empty vocabulary
            raise ResourceError(
                f"{where!r} has no tokenizer; looked for: {', '.join(TOKENIZER_FILES)}",
                cause=f"found there: {_list_names(top)}",
                fix="put the tokenizer files of the model beside its config.json",
            )
        return
    pickles = [name for name in top if name.endswith(PICKLES) and name != "training_args.bin"]
    if pickles:
        raise ResourceError(
            f"{where!r} has its weights only as {_list_names(pickles)}; only safetensors are loaded",
            cause="pickled weights can run code while they are read",
            fix="convert them once where that is safe: load with transformers, then model.save_pretrained(new_folder) "
            "writes model.safetensors",
        )
    raise ResourceError(
        f"{where!r} has no weights (*.safetensors)",
        cause=f"found there: {_list_names(top)}",
        fix="copy or download the model again; git-lfs may have left the weights out",
    )


def _adapter_error(where: str, cause: str) -> ResourceError:
    return ResourceError(
        f"{where!r} holds an adapter, not a base model",
        cause=cause,
        fix="to use it: tunesmith chat RUN or tunesmith eval RUN; to train, set model.path to its base",
    )


def _check_config(where: str, config: dict[str, object]) -> None:
    refuse_code(f"config.json of {where!r}", config)
    kind = str(config.get("model_type"))
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return
    if kind in CONFIG_MAPPING:
        problem = f"{where!r} is of the architecture {kind!r}, which does not write text from left to right"
    else:
        problem = f"{where!r} is of an architecture this transformers does not know: {kind!r}"
    nearest = difflib.get_close_matches(kind, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, n=3, cutoff=0.6)
    raise ResourceError(
        problem,
        cause="model_type in config.json",
        fix="choose a causal language model such as llama, mistral, qwen2, qwen3, gpt2, phi, phi3 or gemma"
        + (f"; near names: {', '.join(nearest)}" if nearest else "; a newer transformers may know more"),
    )


def _check_shards(where: str, folder: Path) -> None:
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return
    weight_map = read_json(index).get("weight_map")
    shards = sorted({str(shard) for shard in weight_map.values()}) if isinstance(weight_map, dict) else []
    outside = [shard for shard in shards if PurePosixPath(shard).name != shard or "\\" in shard]
    if outside or not shards:
        raise ResourceError(
            f"{index} is not a valid index of weights",
            cause=f"bad file names: {_list_names(outside)}",
            fix="download the model again from a place you trust",
        )
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ResourceError(
            f"{where!r} lacks {len(missing)} of {len(shards)} weight files: {_list_names(missing)}",
            fix="copy or download the model again",
        )


def _asks_for_code(key: str, value: object) -> bool:
    if key in ("auto_map", "trust_remote_code") or key.endswith("_internal"):
        return True
    return key.endswith("_implementation") and any("/" in text for text in _walk_texts(value))


def _walk_keys(content: object) -> Iterator[tuple[str, object]]:
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item.items()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _walk_texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for _, value in _walk_keys(content):
        if isinstance(value, str):
            yield value


def _list_files(folder: Path) -> list[str]:
    """Names in a folder, and the configs one level below it, which tell where a model may be instead."""
    inner = [path for name in ("config.json", "adapter_config.json") for path in folder.glob(f"*/{name}")]
    return [path.relative_to(folder).as_posix() for path in [*folder.iterdir(), *inner]]


def _nearest_folder(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, siblings, n=1)
    if nearest:
        return f"did you mean {path.parent / nearest[0]}?"
    return "model.path must be a local folder, a hub id such as org/name, or builtin:nano"


def _list_names(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "nothing"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
