"""``python -m fracjax`` is the ``fracjax`` command."""

from fracjax.cli import main

main()
