"""How the page looks, and how what its buttons do becomes an answer on it."""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio

from foundation import script
from voices.actions import Answer, as_html

# On a phone, all tabs fit side by side; Gradio would hide some behind dots.
STYLE = """
.verdict {font-size: 1.8em; font-weight: 600; margin: 0.2em 0}
.same .verdict, .known .verdict, .probable .verdict {color: #0a7a3d}
.different .verdict, .unknown .verdict {color: #b3261e}
.unclear .verdict {color: #8a5a00}
.dark .same .verdict, .dark .known .verdict, .dark .probable .verdict {color: #5fd38d}
.dark .different .verdict, .dark .unknown .verdict {color: #ff8a80}
.dark .unclear .verdict {color: #ffc46b}
.or {color: inherit !important}
.dark .tab-container button.selected {color: #93c5fd !important}
@media (max-width: 600px) {.tab-container button {padding: 0 3px !important; font-size: 12px !important}}
"""

# Letters and what is behind them differ enough to be read by everybody, as WCAG 2.2 asks (4.5 to 1).
COLOURS = {
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_dark": "*primary_700",
    "button_cancel_background_fill": "#b91c1c",
    "color_accent": "*primary_700",
}

# What is said in the words of the commands, in those of the page.
PAGE_WORDS = {
    "use --more.": "tick the box “more recordings”, and press again.",
    "`enrol` adds people": "the tab “Enrol” adds people",
    "`timeline` tells them apart": "the tab “Who spoke when” tells them apart",
    ": see `timeline --channels`": "",
}


def with_choices(action: Callable[..., tuple]) -> Callable[..., tuple]:
    """The action, whose last answer, names, become those that can be chosen."""

    def answer(*inputs: Any) -> tuple:
        *others, names = action(*inputs)
        return (*others, gradio.update(choices=names, value=None))

    return answer


def in_words(action: Callable[..., Any], *otherwise: Callable[[], object]) -> Callable[..., Any]:
    """The action, whose first answer is shown as HTML, as is an error of the user; then `otherwise` gives the others.

    If the last one of these is `hide`, what it hides is shown with the answer. Uploads lie in folders with long names,
    of which only the file's name is shown.
    """

    def answer(*inputs: Any) -> Any:
        try:
            result = action(*inputs)
            words, *others = (result,) if isinstance(result, Answer) else result
            others += [show()] if hide in otherwise else []
        except (ValueError, OSError) as error:
            words, others = Answer("This did not work", [str(error)]), [make() for make in otherwise]
        finally:
            script.stop_request.clear()
        shown = as_html(words)
        for path in (path for given in inputs for path in (given if isinstance(given, list) else [given])):
            if isinstance(path, str) and Path(path).is_absolute():
                shown = shown.replace(html.escape(path), html.escape(Path(path).name))
        for of_commands, of_page in PAGE_WORDS.items():
            shown = shown.replace(of_commands, of_page)
        return (shown, *others) if others else shown

    return answer


def show() -> dict:
    """The change of a part of the page that is to be seen."""
    return gradio.update(visible=True)


def hide() -> dict:
    """The change of a part of the page that is not to be seen."""
    return gradio.update(visible=False)


def none() -> None:
    """The answer of a place that stays empty."""
