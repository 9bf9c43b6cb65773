"""One self-contained HTML page of a comparison or a pilot: no network, no script, nothing of the user's unescaped."""

from spectral_sampler.experiment.page.document import write_page

__all__ = ["write_page"]
