"""The page of `gramian explore`: an `Explorer` behind Gradio's form, on this machine alone. Needs the extra "explore".

Gradio does not escape what it shows as HTML: all of it comes from `gramian.index.showing`. Files that are dropped are read
here and passed on as bytes. The browser is told to fetch nothing from elsewhere, and requests to other hosts are refused.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from gramian.errors import InputError, first_line, require
from gramian.index.checks import check_port
from gramian.index.explorer import Explorer, Question, Range
from gramian.index.flat import FlatIndex
from gramian.index.mapping import HAS
from gramian.index.protocol import SEARCHED
from gramian.index.showing import STYLE, answers_html, head_html, map_html, notice_html

__all__ = ["HOST", "form", "opened"]

HOST = "127.0.0.1"
MOST = "64mb"  # of a file that is dropped
MANY = 12  # fields with a filter of their own
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
ON_CLICK = """
element.setAttribute('aria-live', 'polite');
element.addEventListener('click', event => {
  const button = event.target.closest('button.more');
  if (!button) return;
  element.tabIndex = -1; // the button goes with its answers: the focus stays here
  element.focus();
  trigger('click', {id: button.dataset.id});
});
"""
TO_ANSWERS = "() => { if (innerWidth < 768) document.querySelector('#answers').scrollIntoView() }"
"""Where the form is above the answers."""


class _Guarded:
    """Adds the policy to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                named = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", ()), *named]}
            await send(message)

        await self.app(scope, receive, told)


def form(explorer: Explorer, title: str = "gramian explore") -> Any:
    """The page.

    Args:
        explorer: what it asks.
        title: of the page.

    Returns:
        Gradio's Blocks.

    Raises:
        InputError: Gradio is not installed.
    """
    require("gradio")
    import gradio as gr

    index = explorer.index
    cells: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    without: dict[str, Any] = {}
    filters: dict[str, tuple[Range, Any, Any]] = {}
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(head_html(title, _about(index)), elem_id="head")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                for name, kind in explorer.inputs.items():
                    cells[name] = _input(gr, name, kind)
                like = gr.Dropdown(explorer.some, value=None, label="More like an item", info="its id", allow_custom_value=True)
                table = None
                if index.model is not None:
                    table = gr.File(label="A table of your own: its first row asks", height=150, type="filepath")
                ask = gr.Button("Search", variant="primary")
                with gr.Accordion("Of the item only", open=False):
                    by = gr.CheckboxGroup(list(index.modalities), label="Modalities of the item that ask", info="none: all")
                with gr.Accordion("What the answers should lack", open=False):
                    for name, kind in explorer.inputs.items():
                        if kind == "text":
                            without[name] = gr.Textbox(label=f"Not: {name}")
                    unlike = gr.Dropdown(explorer.some, value=None, label="Not like an item", allow_custom_value=True)
                with gr.Accordion("Weights of the query's parts", open=False):
                    for name in dict.fromkeys((*explorer.inputs, *explorer.features, *index.modalities)):
                        weights[name] = gr.Slider(-2, 2, value=1, step=0.1, label=f"Weight: {name}")
                with gr.Accordion("Filters", open=False):
                    for one in explorer.ranges[:MANY]:
                        filters[one.name] = (one, *_filter(gr, one))
                    typed = gr.Textbox(label="Conditions", info='as in "year>=1990; lang=fr,de; ok!=false"')
                with gr.Accordion("How to search", open=True):
                    first = gr.Dropdown(list(SEARCHED), value=index.score, label="Score")
                    second = gr.Dropdown(["none", *SEARCHED], value="none", label="Second score, side by side")
                    k = gr.Slider(1, 50, value=8, step=1, label="Answers")
                    searched = gr.CheckboxGroup(
                        list(index.modalities), label="Modalities of the items to search in", info="none: all"
                    )
                    hubs = gr.Checkbox(False, label="Correct for hubs", visible=explorer.hubs)
                    fields = [one.name for one in explorer.ranges if one.kind in ("text", "bool")]
                    colour = gr.Dropdown(["none", HAS, *fields], value="none", label="Colour the map by")
            with gr.Column(scale=3, min_width=320):
                begin = notice_html(_begin(explorer))
                answers = gr.HTML(begin, elem_id="answers", js_on_load=ON_CLICK, apply_default_css=False, min_height=120)
                shown = gr.HTML(map_html(explorer.map), elem_id="map", js_on_load=None, apply_default_css=False)

        known = {like, by, unlike, typed, first, second, k, searched, hubs, colour}
        known |= {*cells.values(), *weights.values(), *without.values()} | ({table} if table is not None else set())
        known |= {each for _, *several in filters.values() for each in several if each is not None}

        def question(given: Mapping[Any, Any]) -> Question:
            parts = {name: _cell(given[each], explorer.inputs[name]) for name, each in cells.items() if given[each]}
            conditions = [_condition(given, *several) for several in filters.values()]
            texts = [given[typed]] if (given[typed] or "").strip() else []
            return Question(
                cells=parts,
                like=(given[like] or "").strip(),
                by=given[by] if given[like] else (),
                table=Path(given[table]) if table is not None and given[table] else None,
                without={name: given[each] for name, each in without.items() if (given[each] or "").strip()},
                unlike=(given[unlike] or "").strip(),
                weights={name: float(given[each]) for name, each in weights.items()},
                filter=[*(one for one in conditions if one), *texts],
                modalities=given[searched],
                k=int(given[k]),
                scores=list(dict.fromkeys(each for each in (given[first], given[second]) if each != "none")),
                hubs=bool(given[hubs]),
                colour="" if given[colour] == "none" else given[colour],
            )

        def searching(given: Mapping[Any, Any]) -> list[str]:
            try:
                found = explorer.ask(question(given))
            except (InputError, OSError) as error:
                dropped = [str(given[each]) for each in emptied if given[each]]
                return [notice_html(_told(error, dropped), alert=True), map_html(explorer.map)]
            return [answers_html(found), map_html(explorer.map, found, found.colour)]

        def more(given: Mapping[Any, Any], event: gr.EventData) -> list[Any]:
            alone = dict(given) | dict.fromkeys(emptied) | {like: str(event.id)}
            return [*searching(alone), str(event.id), *(None for _ in emptied)]

        emptied = [*cells.values(), *([table] if table is not None else [])]
        options: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "search"}
        typing = [each for name, each in cells.items() if explorer.inputs[name] == "text"]
        asking = gr.on(
            [ask.click, typed.submit, *(each.submit for each in typing)], searching, known, [answers, shown], **options
        )
        asking.then(None, js=TO_ANSWERS, api_visibility="private")
        answers.click(more, known, [answers, shown, like, *emptied], **options)
        colour.change(searching, known, [answers, shown], **options)
    return page


def _theme() -> Any:
    """Gradio's own with colours that can be told apart from their ground, and fonts of the machine."""
    import gradio as gr

    quiet = dict.fromkeys(("body_text_color_subdued", "block_info_text_color", "input_placeholder_color"), "#545b64")
    button = {
        f"button_primary_{part}{theme}": "#005a8f" for part in ("background_fill", "border_color") for theme in ("", "_dark")
    }
    button |= {f"button_primary_background_fill_hover{theme}": "#00466f" for theme in ("", "_dark")}
    fonts = ("system-ui", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
    return gr.themes.Default(font=fonts).set(**quiet, **button, slider_color="#005a8f", slider_color_dark="#6cc3f5")


def _about(index: FlatIndex) -> str:
    return f"{len(index):,} items of {', '.join(index.modalities)}; {index.dim} dimensions"


def _told(error: Exception, dropped: Iterable[str]) -> str:
    """An error in a line; files that were dropped under their own names."""
    line = first_line(error)
    for path in dropped:
        line = line.replace(path, Path(path).name)
    return line


def _begin(explorer: Explorer) -> str:
    if explorer.inputs:
        return f"Ask by {', '.join(explorer.inputs)}, by an item of the index, or by several of them together."
    if explorer.index.model is None:
        return "Ask by an item of the index: more of the same. Without a model nothing else can be embedded."
    return "Ask by an item of the index, more of the same, or by a row of features: the model reads no raw media."


def _input(gr: Any, name: str, kind: str) -> Any:
    """What a modality is asked with."""
    if kind == "text":
        return gr.Textbox(label=name, lines=1, placeholder="type a text")
    if kind == "image":
        sources = ["upload", "clipboard", "webcam"]
        picture = gr.Image(label=name, type="filepath", sources=sources, buttons=["fullscreen"], height=200)
        # Gradio would open it, and end in a traceback where it is broken: it is read by our own readers, which say why.
        picture.preprocess = lambda payload: payload.path if payload else None
        return picture
    if kind == "audio":
        return gr.Audio(label=name, type="filepath", sources=["upload", "microphone"], buttons=[])
    return gr.Video(label=name, sources=["upload"], height=200)


def _cell(value: str, kind: str) -> str | bytes:
    return value if kind == "text" else Path(value).read_bytes()


def _filter(gr: Any, one: Range) -> tuple[Any, Any]:
    """What a field is filtered by: one or two inputs."""
    if one.kind == "text":
        return gr.Dropdown(list(one.values), multiselect=True, label=one.name, allow_custom_value=True), None
    if one.kind == "bool":
        return gr.Radio(["any", "true", "false"], value="any", label=one.name), None
    with gr.Row():
        low = gr.Number(None, label=f"{one.name}, at least", placeholder=f"{one.low:g}", min_width=100)
        high = gr.Number(None, label=f"{one.name}, at most", placeholder=f"{one.high:g}", min_width=100)
    return low, high


def _condition(given: Mapping[Any, Any], one: Range, low: Any, high: Any) -> dict[str, Any] | None:
    """What is asked of a field; None for nothing."""
    value = given[low]
    if one.kind == "text":
        return {one.name: list(value)} if value else None
    if one.kind == "bool":
        return None if value in (None, "any") else {one.name: value == "true"}
    ends = {"gte": value, "lte": given[high]}
    return {one.name: wanted} if (wanted := {name: end for name, end in ends.items() if end is not None}) else None


async def _refused(url: str) -> NoReturn:
    """In place of Gradio's own way to fetch what a request names.

    Raises:
        InputError: always.
    """
    raise InputError(f"a question cannot name an address to fetch; got {url!r:.80}.")


@contextmanager
def opened(explorer: Explorer, port: int, title: str = "gramian explore") -> Iterator[str]:
    """Serve the page on this machine while the context lasts; what was dropped on it is deleted afterwards.

    Args:
        explorer: what it asks.
        port: to listen on.
        title: of the page.

    Yields:
        Its address.

    Raises:
        InputError: Gradio is not installed, or a port that is in use.
    """
    require("gradio")
    check_port(port, HOST)
    before = os.environ.get("GRADIO_TEMP_DIR")
    with TemporaryDirectory(prefix="gramian-explore-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            from gradio import processing_utils
            from starlette.middleware import Middleware
            from starlette.middleware.trustedhost import TrustedHostMiddleware

            page = form(explorer, title)
            names, fetch = [HOST, "localhost"], processing_utils.async_ssrf_protected_get
            processing_utils.async_ssrf_protected_get = _refused
            page.launch(
                server_name=HOST,
                server_port=port,
                share=False,
                inbrowser=False,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                max_file_size=MOST,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                theme=_theme(),
                css_paths=STYLE,
                app_kwargs={
                    "middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=names), Middleware(_Guarded)],
                    "docs_url": None,
                    "redoc_url": None,
                    "openapi_url": None,
                },
            )
            try:
                yield f"http://{HOST}:{port}/"
            finally:
                page.close(verbose=False)
                processing_utils.async_ssrf_protected_get = fetch
        finally:
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before
