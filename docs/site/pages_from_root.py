"""Brings into the site what is not under docs/: README, changelog and notebooks.

On a code host a page of docs/ links to `../README.md`, and the README to
`docs/guides/prune.md`. Here such links are turned into those between the site's pages.
Notebooks become pages, with their stored outputs; they can also be downloaded.
"""

import base64
import json
import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
# Path in the repository to path in the site.
BROUGHT = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE.txt",
    **{f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in NOTEBOOKS},
}
_LINK = re.compile(r"(\]\()([^)\s:#]+)(#[^)\s]*)?(\))")


def on_files(files, config):
    for source, target in BROUGHT.items():
        if not source.endswith(".ipynb"):
            files.append(
                File.generated(config, target, abs_src_path=str(ROOT / source))
            )
    for path in NOTEBOOKS:
        text, pictures = notebook_page(path)
        name = f"notebooks/{path.stem}"
        files.append(File.generated(config, f"{name}.md", content=text))
        files.append(File.generated(config, f"{name}.ipynb", abs_src_path=str(path)))
        for number, picture in enumerate(pictures):
            files.append(
                File.generated(config, f"{name}_{number}.png", content=picture)
            )
    return files


def notebook_page(path):
    """A notebook as Markdown, and the pictures that it shows."""
    parts, pictures = [], []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            if not parts:
                title, _, rest = source.partition("\n")
                link = f'<a href="{path.name}" download>Download this notebook</a>'
                source = f"{title}\n\n{link}\n{rest}"
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            parts += _shown(output, f"{path.stem}_{{}}.png", pictures)
    return "\n\n".join(parts) + "\n", pictures


def _shown(output, name, pictures):
    """What an output looks like in Markdown; pictures are collected."""
    data = output.get("data", {})
    if "image/png" in data:
        pictures.append(base64.b64decode("".join(data["image/png"])))
        return [f"![Output of the cell above]({name.format(len(pictures) - 1)})"]
    if "text/markdown" in data:
        return ["".join(data["text/markdown"])]
    text = "".join(output.get("text", data.get("text/plain", "")))
    return [f"```text\n{text.rstrip()}\n```"] if text.strip() else []


def on_page_markdown(markdown, page, **_):
    here = page.file.src_uri
    source = {target: source for source, target in BROUGHT.items()}.get(
        here, f"docs/{here}"
    )

    def relink(match):
        before, link, anchor, after = match.groups()
        if link.startswith(f"{pathlib.PurePath(here).stem}_"):
            return match[0]  # a notebook's own picture
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        target = BROUGHT.get(wanted, wanted.removeprefix("docs/"))
        target = posixpath.relpath(target, posixpath.dirname(here) or ".")
        return f"{before}{target}{anchor or ''}{after}"

    return _LINK.sub(relink, markdown)
