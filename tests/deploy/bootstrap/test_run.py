"""Programs of the set-up: what is shown, what is logged, and what a failure says."""

import pytest

from deploy.bootstrap.errors import StepFailedError
from deploy.bootstrap.layout import Layout
from deploy.bootstrap.run import STATUS_DESCRIPTOR, run_logged


def test_failure_names_the_step_and_shows_the_end_of_the_output(layout: Layout) -> None:
    with pytest.raises(StepFailedError, match=r"counting failed: .*stentor-setup\.log") as failure:
        run_logged(["sh", "-c", "seq 100; echo no room left >&2; exit 3"], step="counting", log=layout.log)
    assert failure.value.tail[-2:] == ("100", "no room left")
    assert "\n1\n2\n" in layout.log.read_text(), "the log has all of it"


def test_status_lines_are_followed_and_not_logged(layout: Layout) -> None:
    followed = []

    def follow(line: str) -> bool:
        followed.append(line)
        return line.startswith("status:")

    # like dpkg, which closes the status descriptor in maintainer scripts, whose output must go on
    script = f"echo status:50 >&{STATUS_DESCRIPTOR}; exec {STATUS_DESCRIPTOR}>&-; echo still here"
    run_logged(["bash", "-c", script], step="following", log=layout.log, follow=follow)

    assert followed == ["status:50", "still here"]
    lines = layout.log.read_text().splitlines()
    assert "still here" in lines
    assert "status:50" not in lines


def test_an_interrupted_set_up_lets_the_program_finish(layout: Layout) -> None:
    def interrupt(line: str) -> bool:
        raise KeyboardInterrupt

    done = layout.tree / "done"
    script = f"echo unpacking; for line in $(seq 20000); do echo $line; done; touch {done}"
    with pytest.raises(KeyboardInterrupt):
        run_logged(["sh", "-c", script], step="installing", log=layout.log, follow=interrupt)

    assert done.exists()
    assert layout.log.read_text().endswith("20000\n")
