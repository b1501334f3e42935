"""`python -m deploy.cli`."""

from deploy.cli.app import main

raise SystemExit(main())
