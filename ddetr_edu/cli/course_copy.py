"""`ddetr course copy`."""

from pathlib import Path

from tyro.conf import Positional

from ddetr_edu.cli.common import shell_command


def run(dir: Positional[Path]) -> None:
    """Copy the lessons to a folder to work in; a file that is already there is never overwritten.

    Args:
        dir: The folder, which is made if need be. A second copy into it adds what is missing.
    """
    from ddetr_edu.course.catalogue import lessons_folder
    from ddetr_edu.course.learner_progress import record_copy
    from ddetr_edu.course.working_copy import copy_lessons

    added, kept = copy_lessons(lessons_folder(), dir)
    record_copy(dir)
    if added:
        names = f": {', '.join(added)}" if kept else ""
        print(f"copied {len(added)} file{'s' * (len(added) != 1)} to {dir}{names}")
    if kept:
        print(
            f"kept {len(kept)} that {'were' if len(kept) != 1 else 'was'} there already: "
            f"{', '.join(kept)} (to get one as it was, rename yours and copy again)"
        )
    print(f"To begin:\n  {shell_command('jupyter', 'lab', dir)}")
