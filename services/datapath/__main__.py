"""``python -m services.datapath``: the datapath of one node."""

from services.datapath.service import add_arguments, main
from shared.service import run_service

if __name__ == "__main__":
    raise SystemExit(run_service("datapath", main, add_arguments=add_arguments))
