"""A page as a real browser has it: Chromium of the system, without a window."""

import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


def dom_of(path: Path) -> str:
    """What a page is after its script ran."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--allow-file-access-from-files", "--dump-dom", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
