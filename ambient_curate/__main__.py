"""``python -m ambient_curate`` is the command ``ambient-curate``."""

from ambient_curate.cli.app import main

main()
