"""What a part of the device check is given: where its rows go, how long it has, which device it may use."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

VARIABLE = "SPECTRAL_SAMPLER_DEVICE_CHECK"  # a session as JSON, for the process of a part and for what that starts
ROWS = "rows.jsonl"
ROOT = Path(__file__).resolve().parents[2]


class NotHere(Exception):
    """A device or a tool that a part needs is absent: one sentence."""


@dataclass
class Session:
    """One part of one run.

    Args:
        run: when the run began; every row of it carries this.
        module: of the part, with ``run(session)``.
        out: the folder of the results.
        deadline: `time.time()` at which the part is stopped.
        dry: tiny problems on the CPU. quick: the few most telling problems only.
    """

    run: str
    part: str
    module: str
    out: str
    deadline: float
    dry: bool = False
    quick: bool = False
    wrong: list[str] = field(default_factory=list)  # what was found to be wrong so far, a sentence each

    @classmethod
    def from_environment(cls) -> Session:
        """The session of the process that started this one."""
        return cls(**json.loads(os.environ[VARIABLE]))

    def environment(self) -> dict[str, str]:
        """The environment that hands this session on."""
        return os.environ | {VARIABLE: json.dumps(asdict(self)), "PYTHONUNBUFFERED": "1"}

    def row(self, *, wrong: str | None = None, **fields: Any) -> None:
        """Put a row on the disk before anything else happens. ``wrong`` says in a sentence why the part fails."""
        if wrong is not None:
            self.wrong.append(wrong)
            fields["wrong"] = wrong
        told = {name: float(f"{each:.6g}") if isinstance(each, float) else each for name, each in fields.items()}
        line = json.dumps({"run": self.run, "part": self.part, **told}) + "\n"
        with Path(self.out, ROWS).open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        print(line, end="", flush=True)

    def left(self) -> float:
        """Seconds until the part is stopped."""
        return self.deadline - time.time()

    def device(self) -> torch.device:
        """The first GPU, or the CPU in a dry run."""
        import torch

        if self.dry:
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise NotHere("torch sees no CUDA device")
        return torch.device("cuda", 0)


def rows_of(out: str | Path, run: str | None = None) -> list[dict[str, Any]]:
    """The rows of a run, by default of all. A line that was cut off where its process was killed is passed over."""
    path, found = Path(out, ROWS), []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if run in (None, row["run"]):
            found.append(row)
    return found
