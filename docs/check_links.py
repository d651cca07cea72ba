"""Checks the links within the built site: each file and each anchor that a page names exists.

python docs/check_links.py build/docs
"""

import html.parser
import pathlib
import sys
import urllib.parse


class Page(html.parser.HTMLParser):
    """The anchors of a page, and the targets of its links."""

    def __init__(self, path):
        super().__init__()
        self.anchors = set()
        self.links = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Record the ids and the links of a tag."""
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def broken_links(root):
    """Return the number of links within the site, and (page, link) of each broken link."""
    pages = {path: Page(path) for path in sorted(root.rglob("*.html"))}
    count = 0
    broken = []
    for path, page in pages.items():
        for link in page.links:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            count += 1
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            anchor = urllib.parse.unquote(url.fragment)
            if not target.is_file() or (
                anchor and target in pages and anchor not in pages[target].anchors
            ):
                broken.append((path.relative_to(root).as_posix(), link))
    return count, broken


if __name__ == "__main__":
    count, broken = broken_links(pathlib.Path(sys.argv[1]).resolve())
    for page, link in broken:
        print(f"{page}: {link} leads nowhere")
    print(f"{count} links checked, {len(broken)} broken")
    sys.exit(1 if broken or not count else 0)
