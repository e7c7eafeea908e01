"""Importing a pipeline in a process of its own: the service's has the modules that it imported first."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from batchrun.errors import PipelineError
from batchrun.submission import Submission

__all__ = ["import_elsewhere"]

TIMEOUT = 120.0
"""Seconds in which a module must be imported."""


def import_elsewhere(submission: Submission) -> bytes:
    """The pickled pipeline of a submission, as it is in its folder at this moment.

    Raises PipelineError if it cannot be imported there.
    """
    if not Path(submission.folder).is_dir():
        raise PipelineError(
            f"the folder {submission.folder}, from which {submission.pipeline} was to be imported, is not "
            "there on this machine; add the schedule again from a folder that is"
        )
    with tempfile.TemporaryDirectory(prefix="batchrun-") as folder:
        path = Path(folder, "program")
        command = [sys.executable, "-m", "batchrun.service.importing", submission.pipeline, str(path)]
        try:
            done = subprocess.run(
                [*command, json.dumps(submission.params)],
                cwd=submission.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PipelineError(
                f"{submission.pipeline} was not imported within {TIMEOUT:g} s; what does its module do?"
            ) from error
        if done.returncode:
            said = done.stderr.strip() or f"its process ended with code {done.returncode}"
            raise PipelineError(f"{submission.pipeline} cannot be imported in {submission.folder}: {said}")
        return path.read_bytes()


def main() -> None:
    """Write the program of the pipeline named by the first argument to the path that is the second."""
    from batchrun.errors import BatchrunError
    from batchrun.loading import load_pipeline
    from batchrun.worker.program import pickle_pipeline

    target, path, params = sys.argv[1:]
    sys.path.insert(0, str(Path.cwd()))
    try:
        pipeline = load_pipeline(target)
        pipeline.bind(json.loads(params))
        Path(path).write_bytes(pickle_pipeline(pipeline))
    except BatchrunError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
