"""Write the generated pages anew: ``make docs``."""

from __future__ import annotations

from tests.structure.pages import pages

if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
        print(path)
