"""``python -m snnrun``."""

from snnrun.cli import main

main()
