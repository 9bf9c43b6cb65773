"""The process of one part: runs it and ends with a row that says how it went."""

from __future__ import annotations

import importlib
import sys
import traceback

from benchmarks.device_check.session import NotHere, Session


def main() -> int:
    """0 where all is right; the last row has the outcome and one sentence."""
    session = Session.from_environment()
    outcome, sentence = "passed", ""
    try:
        importlib.import_module(session.module).run(session)
    except NotHere as reason:
        outcome, sentence = "not here", str(reason)
    except Exception as error:  # noqa: BLE001  (whatever it is, it must not reach the other parts)
        traceback.print_exc()
        session.wrong.append(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}")
    if session.wrong:
        more = f" (and {len(session.wrong) - 1} more)" if len(session.wrong) > 1 else ""
        outcome, sentence = "failed", session.wrong[0] + more
    session.row(outcome=outcome, sentence=sentence)
    return int(outcome != "passed")


if __name__ == "__main__":
    sys.exit(main())
