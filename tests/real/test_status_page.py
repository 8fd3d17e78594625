"""`/status` in a browser: legible in light and dark, on a desk and on a phone, whatever the site says of itself."""

import os
from pathlib import Path

import pytest

from behaviour.support import later, site
from harness import Atrio

from .chromium import Chromium

TOP = """
import threading, time
go = threading.Event()

def run(path):
    if path.startswith("/stuck"):
        go.wait(120)
    elif path == "/go":
        go.set()
    elif path == "/fail":
        raise ValueError("<img src=x onerror=alert(1)> " + "long" * 50)
    return path
"""
STUCK = "/stuck/" + "orders-of-the-month-" * 4
WINDOWS = {"desk": (1280, 800), "phone": (360, 740)}
GROUNDS = {"light": (255, 255, 255), "dark": (0x16, 0x16, 0x15)}

CONTRASTS = """
(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = rgb(getComputedStyle(element).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  const light = colour => {
    const [r, g, b] = colour.slice(0, 3).map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const poor = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || element.tagName === "STYLE") continue;
    const both = [light(rgb(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => a - b);
    const contrast = (both[1] + 0.05) / (both[0] + 0.05);
    if (contrast < 4.5) poor.push([texts.currentNode.data, contrast]);
  }
  return poor;
})()
"""
"""Texts that are hard to read (WCAG 2, level AA)."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two workers; a request has been stuck for more than ten seconds, others have failed."""
    folder = site(tmp_path_factory.mktemp("status") / "shop", "run(environ['PATH_INFO'])", top=TOP)
    with Atrio(folder, workers=2, threads=25) as server:
        stuck = later(server.get, STUCK, timeout=120)
        for _ in range(3):
            assert server.get("/fail").status == 500
        yield server
        while not stuck.done():
            server.get("/go")
        assert stuck.result().status == 200


@pytest.fixture(scope="module")
def browser(server):
    with Chromium() as browser:
        browser.open(f"http://127.0.0.1:{server.admin_port}/status")
        browser.wait("document.querySelector('.requests li.warm') !== null")
        yield browser
        assert not browser.complaints


def test_the_page_comes_with_all_it_needs_and_lets_nothing_else_in(server):
    reply = server.admin("/status", [("Accept", "text/html,*/*;q=0.8")])
    assert (reply.status, reply.header("content-type")) == (200, "text/html; charset=utf-8")
    assert (reply.header("cache-control"), reply.header("x-content-type-options")) == ("no-store", "nosniff")
    assert reply.header("content-security-policy").startswith("default-src 'none'; style-src 'nonce-")
    assert "<script" not in reply.text and "<img" not in reply.text and "http:" not in reply.text
    assert server.admin("/status", [("Accept", "application/json")]).header("content-type") == "application/json"
    assert server.admin("/status").header("content-type").startswith("text/html")


@pytest.mark.parametrize("scheme", GROUNDS)
@pytest.mark.parametrize("window", WINDOWS)
def test_it_is_legible(server, browser, tmp_path, window, scheme):
    folder = Path(os.environ.get("ATRIO_SCREENSHOTS", tmp_path))
    browser.look(*WINDOWS[window], scheme)
    assert browser.screenshot(folder / f"status-{window}-{scheme}.png") == GROUNDS[scheme]
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls to the side"
    assert browser.evaluate(CONTRASTS) == []
    row = browser.evaluate("document.querySelector('.requests li.warm').innerText")
    assert STUCK in row.replace("\n", "") and "GET" in row and "worker" in row
    box = "document.querySelector('.requests li').getBoundingClientRect()"
    assert browser.evaluate(f"(r => r.top >= 0 && r.bottom <= innerHeight)({box})"), "the stuck request is out of sight"
    cut = """[...document.querySelectorAll("td, dd, dt, li > *")].filter(e => e.scrollWidth > e.clientWidth + 1 &&
        getComputedStyle(e).display !== "inline").map(e => e.outerHTML)"""
    assert browser.evaluate(cut) == []


def test_what_a_site_says_is_text(server, browser):
    error = browser.evaluate("document.querySelector('.errors li').innerText")
    assert "ValueError: <img src=x onerror=alert(1)> long" in error
    assert browser.evaluate("document.images.length") == 0


def test_it_shows_each_app_thread_and_comes_anew_until_told_not_to(server, browser):
    assert browser.evaluate("document.querySelectorAll('.thread').length") == 50
    assert browser.evaluate("document.querySelectorAll('.thread.long').length") == 1
    shown = "document.querySelector('header time').dateTime"
    first = browser.evaluate(shown)
    browser.wait(f"{shown} > {first!r}")
    browser.evaluate("document.querySelector('header a').click()")
    browser.wait("location.search === '?refresh=off' && document.querySelector('header a') !== null")
    assert browser.evaluate("document.querySelector('meta[http-equiv=refresh]')") is None
    browser.evaluate("document.querySelector('header a').click()")
    browser.wait("document.querySelector('meta[http-equiv=refresh]') !== null")
