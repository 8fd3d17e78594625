"""Runs pip from the wheel that virtual environments get theirs from, as ensurepip does."""

import ensurepip
import runpy
import sys
from pathlib import Path

wheel = next(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
sys.modules.pop("pip", None)
sys.path.insert(0, str(wheel))
runpy.run_module("pip", run_name="__main__", alter_sys=True)
