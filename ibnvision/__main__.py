"""`python -m ibnvision`, the same as `ibnvision`."""

from .cli import main

raise SystemExit(main())
