"""To the Hugging Face Hub: which files of a model folder may go there, and the client that takes them.

Only files that belong to a model are known by name; anything else in the folder is refused, not skipped, since nobody
can say what it is. Knows no run directory. The client is huggingface_hub's own.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from tunesmith.errors import ResourceError, SettingsError
from tunesmith.export.names import CARD, MARK, MATRIX, MODELFILE

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_BELONGS = (
    *(CARD, "LICENSE", "LICENSE.*", "NOTICE", "ATTRIBUTION.md", MARK, MODELFILE, "*.gguf"),
    *("config.json", "generation_config.json", "adapter_config.json"),
    *("adapter_model.safetensors", "adapters.safetensors", "model.safetensors", "model-*-of-*.safetensors"),
    *("model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
    *("sentencepiece.bpe.model", "tekken.json", "chat_template.jinja", "chat_template.json"),
)
_TEXTS = (".json", ".md", ".jinja", ".txt", "")
_SECRETS = {
    "a token of the Hub": r"\bhf_[A-Za-z0-9]{30,}",
    "a key of OpenAI or Anthropic": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a token of GitHub": r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "a key of AWS": r"\bAKIA[0-9A-Z]{16}\b",
    "a key of Google": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "a token of Slack": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
_FAULTS = (hub_errors.HTTPError, OSError)  # type: ignore[attr-defined]  # of httpx or httpx2
_TOKEN_FIX = (
    "make a token that may write (https://huggingface.co/settings/tokens), then set HF_TOKEN or run `hf auth login`"
)


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a repository: its name there, and where its bytes are, on the disk or changed for the others."""

    name: str
    source: Path | bytes

    @property
    def size_bytes(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


def choose_files(folder: Path) -> tuple[Upload, ...]:
    """Every file of a model folder, in the order of their names; a path of this machine is cut to its last part.

    An importance matrix stays: no program needs it to run the model, and it is sums over the training rows.

    Raises:
        SettingsError: something there does not belong to a model, is a link, or holds a secret; all problems together.
    """
    problems: list[str] = []
    found: list[Upload] = []
    for path in sorted(folder.iterdir()):
        if path.name == MATRIX:
            continue
        if path.is_symlink():
            problems.append(f"{path.name} is a link: what it leads to would be uploaded")
        elif path.is_dir() or not any(fnmatch.fnmatchcase(path.name, pattern) for pattern in _BELONGS):
            problems.append(f"{path.name}{'/' if path.is_dir() else ''} does not belong to a model")
        else:
            problems += [f"{path.name} {problem}" for problem in _secrets(path)]
            try:
                found.append(Upload(path.name, _for_others(path)))
            except (ValueError, AttributeError, TypeError, KeyError) as error:
                problems.append(f"{path.name} is damaged: {error}")
    if not problems and not any(upload.name == CARD for upload in found):
        problems.append(f"it has no {CARD}, which says what it is and under which licence")
    if problems:
        raise SettingsError(
            f"{folder} cannot be uploaded as it is",
            problems=tuple(problems),
            fix="move what is not part of the model elsewhere, or export it again",
        )
    return tuple(found)


def check_repo(repo: str) -> None:
    """Judge the name of a repository, without asking for it.

    Raises:
        SettingsError: the Hub has no such names.
    """
    try:
        validate_repo_id(repo)
    except hub_errors.HFValidationError as error:
        raise SettingsError(
            f"{repo!r} is no name of a repository",
            cause=" ".join(str(error).split()),
            fix="write OWNER/NAME, such as ada/press-faq",
        ) from error


def push_files(
    repo: str,
    uploads: Sequence[Upload],
    *,
    private: bool,
    update: bool,
    message: str,
    on_progress: Callable[[str, int, int], None],
) -> str:
    """Make a repository, or with `update` go on with one, and commit the files to it.

    Weights that lie there and are not among `uploads` go, where these bring safetensors: a program that loads the
    repository would read both. Nothing else is deleted; the repository's history keeps all.

    Returns:
        Its address.

    Raises:
        SettingsError: the repository is there already, or is public and the files are meant to be private, or private
            and meant to be public.
        ResourceError: no token, one that may not do this, no connection, or the Hub's own fault.
    """
    if huggingface_hub.get_token() is None:
        raise ResourceError("there is no token of the Hub, and nobody uploads without one", fix=_TOKEN_FIX)
    api = HfApi()
    made = False
    with _explained(repo, lambda: made):
        url = api.create_repo(repo, private=private, exist_ok=update)
        made = True
        repo = url.repo_id  # with the owner, where only a name was given
        stale: list[str] = []
        if update:
            is_private = bool(api.repo_info(repo).private)
            if private and not is_private:
                raise SettingsError(
                    f"{repo} is public, and this upload is private",
                    fix="add --public if everybody may have it, or choose another repository",
                )
            if is_private and not private:
                raise SettingsError(
                    f"{repo} is private, and an update does not make it public",
                    fix="leave --public out, or make it public in its settings on the Hub first",
                )
            stale = _stale(api.list_repo_files(repo), uploads)
        additions = [CommitOperationAdd(path_in_repo=upload.name, path_or_fileobj=upload.source) for upload in uploads]
        for done, addition in enumerate(additions):
            on_progress("sending files", done, len(additions))
            api.preupload_lfs_files(repo, [addition])
        deletions = [CommitOperationDelete(path_in_repo=name) for name in stale]
        api.create_commit(repo, [*additions, *deletions], commit_message=message)
        on_progress("sending files", len(additions), len(additions))
    return str(url)


def _stale(there: Sequence[str], uploads: Sequence[Upload]) -> list[str]:
    names = {upload.name for upload in uploads}
    if not any(_is_weight(name) for name in names):
        return []
    return [name for name in there if _is_weight(name) and name not in names]


def _is_weight(name: str) -> bool:
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in _WEIGHTS)


def _secrets(path: Path) -> Iterator[str]:
    if path.suffix not in _TEXTS:
        return
    token = huggingface_hub.get_token()
    patterns = {**_SECRETS, **({"your token of the Hub": re.escape(token)} if token else {})}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        yield from (f"line {number} holds {what}" for what, pattern in patterns.items() if re.search(pattern, line))


def _for_others(path: Path) -> Path | bytes:
    """The file, or what others should get of it: no path of this machine, no words of the user's data."""
    if path.name not in ("adapter_config.json", MARK):
        return path
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    base = content.get("base_model_name_or_path")
    if isinstance(base, str) and (Path(base).is_absolute() or Path(base).exists()):
        content["base_model_name_or_path"] = PurePosixPath(Path(base).as_posix()).name
    for check in content.get("checks", []):
        if not check["passed"]:
            del check["detail"]  # quotes answers
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


@contextmanager
def _explained(repo: str, is_made: Callable[[], bool]) -> Iterator[None]:
    """The client's errors in words, with what to do."""
    try:
        yield
    except hub_errors.OfflineModeIsEnabled as error:
        raise ResourceError("HF_HUB_OFFLINE is set, so the Hub is not asked", fix="unset HF_HUB_OFFLINE") from error
    except (*_FAULTS, RuntimeError) as error:
        # what happened to one of the files is the cause of a RuntimeError
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, _FAULTS):
            raise
        raise _in_words(repo, cause, is_made()) from error


def _in_words(repo: str, error: BaseException, made: bool) -> ResourceError | SettingsError:
    status = error.response.status_code if isinstance(error, hub_errors.HfHubHTTPError) else None
    said = " ".join(str(error).split())[:300]
    again = f"; {repo} is there and has no new commit: push again with --update" if made else ""
    if status == 401:
        return ResourceError("the Hub does not know this token", cause=said, fix=_TOKEN_FIX)
    if status == 403:
        fix = f"check the owner in {repo!r}; {_TOKEN_FIX}"
        return ResourceError(f"this token may not write to {repo}", cause=said, fix=fix)
    if status == 409 and not made:
        return SettingsError(f"{repo} is there already", fix="add --update to commit to it, or choose another name")
    if status == 404:
        return ResourceError(f"the Hub has no {repo}", cause=said, fix=f"check its name and owner{again}")
    if status is not None:
        fix = "try again later" if status >= 500 or status == 429 else "its words say why"
        return ResourceError(f"the Hub answered {status}", cause=said, fix=f"{fix}{again}")
    return ResourceError(
        f"the Hub at {huggingface_hub.constants.ENDPOINT} cannot be reached",
        cause=said or type(error).__name__,
        fix=f"check the network, HF_ENDPOINT and proxies{again}",
    )
