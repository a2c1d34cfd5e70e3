"""The speech models of transformers, from weights on this computer: no network, no pickle, no weight left random."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from spear.errors import SpearError
from spear.files import read_json

HUB_IDS = {
    "hubert": "facebook/hubert-large-ll60k",
    "wav2vec2-conformer": "facebook/wav2vec2-conformer-rel-pos-large",
    "unispeech": "microsoft/unispeech-large-1500h-cv",
}
_OTHER = "give another folder with --weights FOLDER"
PACKAGED_WHISPER = Path(__file__).parent.parent / "weights" / "whisper-tiny.en"


def weights_folder(name: str, weights: str | Path | None) -> Path:
    """A folder with the weights, on this computer. Raises SpearError where there is none."""
    if weights is None and name == "whisper":
        return PACKAGED_WHISPER
    where = str(weights or HUB_IDS[name])
    if Path(where).is_dir():
        return Path(where)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(where, local_files_only=True))
    except HFValidationError as error:
        raise SpearError(
            f"{where} is not a folder; give one that holds config.json and model.safetensors with --weights FOLDER"
        ) from error
    except LocalEntryNotFoundError as error:
        raise SpearError(
            f"the weights {where} of the encoder {name} are not on this computer; "
            f"run `hf download {where}`, or point to a folder that holds them with --weights FOLDER"
        ) from error


def load_model(model_class: Any, name: str, folder: Path) -> Any:
    """A model of transformers in evaluation mode, float32, every weight from the file. Raises SpearError."""
    check_folder(name, folder)
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True, "dtype": torch.float32}
    try:
        with _quiet_transformers():
            model, loading = model_class.from_pretrained(folder, **options)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise unreadable(folder, error) from error
    missing = sorted(set(loading["missing_keys"]) - {"masked_spec_embed"})  # used in pretraining only
    if missing:
        raise lacks(folder, missing)
    return model.eval().requires_grad_(False)


def check_folder(name: str, folder: Path) -> None:
    """Raises SpearError where a folder holds another model, or its weights in a form that is not read."""
    config = folder / "config.json"
    found = read_json(config).get("model_type") if config.exists() else None
    if found != name:
        raise SpearError(f"{folder} holds {f'a {found}' if found else 'no'} model, {name} is needed; {_OTHER}")
    if not (folder / "model.safetensors").exists() and not (folder / "model.safetensors.index.json").exists():
        raise SpearError(_no_safetensors(name, folder))


def unreadable(folder: Path, error: Exception) -> SpearError:
    """What to say of weights that cannot be loaded."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SpearError(f"the weights in {folder} cannot be loaded ({reason}); download them again, or {_OTHER}")


def lacks(folder: Path, missing: list[str]) -> SpearError:
    """What to say of weights that are not all there."""
    return SpearError(f"the weights in {folder} lack {missing[0]} ({len(missing)} in all); {_OTHER}")


def _no_safetensors(name: str, folder: Path) -> str:
    if not (folder / "pytorch_model.bin").exists():
        return f"no model.safetensors in {folder}; download it again, or give another folder with --weights FOLDER"
    convert = f"from transformers import AutoModel as M; M.from_pretrained('{folder}').save_pretrained('{name}')"
    return (
        f"{folder} holds pytorch_model.bin but no model.safetensors, and spear reads no pickles; "
        f'run `python -c "{convert}"` once and give --weights {name}'
    )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Its progress bar and load report would land between our own lines; what matters of the report we check."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
