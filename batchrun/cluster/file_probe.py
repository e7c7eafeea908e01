"""Whether workers see the files that the runner sees: proven with a token, not believed."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Sequence
from typing import Any

from batchrun.data import files
from batchrun.errors import StoreError

__all__ = ["answer", "probe"]

_log = logging.getLogger(__name__)


def probe(client: Any, folder: str, addresses: Sequence[str]) -> bool:
    """Whether the workers at *addresses* read what is written to *folder* here, and the other way round.

    Leaves nothing behind. *client* is a Dask client. A folder that cannot be written here is shared with
    nobody.
    """
    token = uuid.uuid4().hex
    filesystem, root = files.filesystem(folder)
    question = f"{root.rstrip('/')}/.probe-{token}"
    written = [question, *(f"{question}-{number}" for number in range(len(addresses)))]
    made = False
    try:
        with files.reached(folder):
            made = files.has_folders(folder) and not filesystem.exists(root)
            files.make_folder(folder)
            filesystem.pipe_file(question, token.encode())
            protocol = filesystem.unstrip_protocol(question)
            for number, address in enumerate(addresses):
                answered = client.run(answer, protocol, number, workers=[address], on_error="return")[address]
                if answered != token or filesystem.cat_file(written[1 + number]).decode() != token:
                    _log.info("worker %s does not share %s: %s", address, folder, answered)
                    return False
    except (OSError, StoreError) as error:
        _log.info("%s is not shared with the workers: %s", folder, error)
        return False
    finally:
        for path in written:
            with contextlib.suppress(OSError), files.reached(folder):
                filesystem.rm_file(path)
        with contextlib.suppress(OSError):
            if made:
                filesystem.rmdir(root)
    return True


def answer(question: str, number: int) -> str:
    """Runs on a worker: read the token and write it back beside it."""
    filesystem, path = files.filesystem(question)
    token: bytes = filesystem.cat_file(path)
    filesystem.pipe_file(f"{path}-{number}", token)
    return token.decode()
