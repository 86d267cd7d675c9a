"""Brings into the site what is not under docs/: README, changelog and notebooks.

On a code host a page of docs/ links to `../README.md`, and the README to
`docs/guides/prune.md`. Here such links are turned into those between the site's pages.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
# Path in the repository to path in the site.
BROUGHT = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    **{
        str(path.relative_to(ROOT)): str(path.relative_to(ROOT))
        for path in sorted(ROOT.glob("notebooks/*.ipynb"))
    },
}
_LINK = re.compile(r"(\]\()([^)\s:#]+)(#[^)\s]*)?(\))")


def on_files(files, config):
    for source, target in BROUGHT.items():
        file = File.generated(config, target, abs_src_path=str(ROOT / source))
        files.append(file)
    return files


def on_page_markdown(markdown, page, **_):
    here = page.file.src_uri
    source = {target: source for source, target in BROUGHT.items()}.get(
        here, f"docs/{here}"
    )

    def relink(match):
        before, link, anchor, after = match.groups()
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        target = BROUGHT.get(wanted, wanted.removeprefix("docs/"))
        target = posixpath.relpath(target, posixpath.dirname(here) or ".")
        return f"{before}{target}{anchor or ''}{after}"

    return _LINK.sub(relink, markdown)
