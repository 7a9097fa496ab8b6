"""Check a page with axe-core in headless Chromium: python benchmarks/accessibility.py runs/demo/report.html.

It needs `chromium`, and `npm` to download axe-core once to a temporary folder. It prints every violation, in light and in
dark, and ends with code 1 where there is one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from html import unescape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from browser import opened, with_script

AXE = "axe-core@4.10.2"

RUN = """
document.querySelectorAll("details").forEach(part => part.open = true);
document.documentElement.dataset.theme = "THEME";
axe.run(document, {resultTypes: ["violations", "incomplete"]}).then(result => {
  const plain = kind => result[kind].map(one => {
    const first = one.nodes[0];
    return [one.impact, one.id, one.help, one.nodes.length, first.html.slice(0, 200), first.failureSummary];
  });
  document.body.innerHTML = "";
  const output = document.createElement("pre");
  output.id = "axe";
  const [violations, incomplete] = [plain("violations"), plain("incomplete")];
  output.textContent = JSON.stringify({violations, incomplete, passes: result.passes.length});
  document.body.append(output);
});
"""


def main() -> int:
    page = Path(sys.argv[1]).read_text(encoding="utf-8")
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(folder).glob("axe-core-*.tgz"))) as archive:
            axe = archive.extractfile("package/axe.min.js").read().decode()
        for theme in ("light", "dark"):
            copy = Path(folder) / "page.html"
            copy.write_text(with_script(page, axe + RUN.replace("THEME", theme)), encoding="utf-8")
            document, log = opened(copy, profile=Path(folder) / "profile", milliseconds=60_000)
            match = re.search(r'<pre id="axe">(.*?)</pre>', document, re.S)
            if match is None:
                print(f"axe did not end: {log}")
                return 1
            result = json.loads(unescape(match[1]))
            found += len(result["violations"])
            print(f"{theme}: {len(result['violations'])} violations, {len(result['incomplete'])} to look at by hand, ", end="")
            print(f"{result['passes']} rules passed")
            for kind in ("violations", "incomplete"):
                for impact, rule, about, count, html, why in result[kind]:
                    print(f"  {kind} {impact} {rule}: {about}; {count} ×, as {html}\n    {why}")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
