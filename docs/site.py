"""What the site takes from outside this folder: pictures of the results; of everything else, the name."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+((?:benchmarks|spectral_sampler|examples|tests|[A-Z]+\.md)[^)]*)\)")


def on_files(files, config):
    """Adds the pictures that pages show."""
    for path in sorted((ROOT / "benchmarks" / "results").rglob("*.png")):
        name = str(path.relative_to(ROOT))
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, **_):
    """A link to a picture stays one; to another file of the repository, it becomes that file's name."""
    up = "../" * page.url.rstrip("/").count("/")

    def inside(match):
        text, target = match.groups()
        if target.endswith(".png"):
            return f"[{text}]({up}{target})"
        return f"`{target}`" if text.strip("`/") in target else f"{text} (`{target}`)"

    return OUTSIDE.sub(inside, markdown)
