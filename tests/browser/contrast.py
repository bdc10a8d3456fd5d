"""How well the texts of a page can be told from what is behind them."""

from __future__ import annotations

from playwright.sync_api import Page

LEAST = 4.5
"""The ratio that WCAG 2 wants of text of the usual size."""

_MEASURE = """(least) => {
  const drawing = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const channels = (colour) => {
    drawing.clearRect(0, 0, 1, 1);
    drawing.fillStyle = colour;
    drawing.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = drawing.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = (front, back) => front.slice(0, 3).map((one, i) => one * front[3] + back[i] * (1 - front[3]));
  const behind = (node) => {
    const found = [];
    for (let at = node; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour[3]) found.push(colour);
      if (colour[3] === 1) break;
    }
    return found.reverse().reduce((back, front) => over(front, back), [255, 255, 255]);
  };
  const light = (colour) => {
    const [red, green, blue] = colour.map((one) => {
      const part = one / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const node = walker.currentNode.parentElement;
    if (!text || !node.checkVisibility() || node.closest('[aria-disabled=true], .unseen, .skip')) continue;
    const back = behind(node);
    const [one, other] = [light(over(channels(getComputedStyle(node).color), back)), light(back)];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < least) faint.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return faint;
}"""


def faint_texts(page: Page, least: float = LEAST) -> list[str]:
    """The texts that are to be seen, and stand out less than that from what is behind them."""
    return page.evaluate(_MEASURE, least)  # type: ignore[no-any-return]
