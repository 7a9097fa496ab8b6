"""Pages in headless Chromium, where it is installed: what it makes of them, and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def opened(page: Path, *, profile: Path, milliseconds: int = 4000) -> tuple[str, str]:
    """The document after its scripts have run, and what the browser logged."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--window-size=1200,900"]
    options += [f"--user-data-dir={profile}", f"--virtual-time-budget={milliseconds}", "--dump-dom", page.resolve().as_uri()]
    done = subprocess.run([str(CHROMIUM), *options], capture_output=True, text=True, check=True, timeout=60)
    log = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Content Security Policy" in line]
    return done.stdout, "\n".join(log)


def with_script(html: str, script: str) -> str:
    """The page without its policy, with a script of the test's at its end."""
    start = html.index('<meta http-equiv="Content-Security-Policy"')
    html = html[:start] + html[html.index(">", start) + 1 :]
    return html.replace("</body>", f"<script>{script.replace('</', chr(60) + chr(92) + '/')}</script></body>")
