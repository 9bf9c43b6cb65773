"""`python -m benchmarks.device_check`: see `runner`."""

import signal
import sys

from benchmarks.device_check.runner import main

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that the part in progress is ended, too
raise SystemExit(main())
