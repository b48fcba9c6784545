"""The page of the demo."""

import html
import os

from PIL import Image as PILImage

from genaf_hf.demo.demo import Demo, Outcome, amplified, eps_words
from genaf_hf.demo.pictures import enlarged, read_image
from genaf_hf.errors import UserError
from genaf_hf.evaluation.report import HARDENED
from genaf_hf.values.provenance import public_name

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
import gradio as gr

LARGEST_UPLOAD = "10mb"
KEPT = 3600  # seconds that an upload is kept
LONGEST_QUEUE = 20
SHOWN_BY_MODEL = 5  # three pictures and two predictions
NOTHING_CHOSEN = "<p>No image is chosen yet.</p>"
NORMS = {"linf": "L-inf", "l2": "L2"}
CSS = """
.image img { width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated; }
.image > label, .two > * > label { position: static !important; border: none !important; }
.words, .verdict, .two h2, .two dt, .caption-label { overflow-wrap: anywhere; }
.verdict { font-size: 1.15rem; padding: 0.4rem 0.2rem; }
.verdict .fooled { color: #b03030; font-weight: 600; }
.verdict .right { color: #2b7a3d; font-weight: 600; }
.dark .verdict .fooled { color: #f08080; }
.dark .verdict .right { color: #7fd08f; }
.three, .two { display: grid !important; gap: 0.5rem; }
.three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.three > *, .two > * { min-width: 0 !important; }
.three .image img, .three .image-container, .three .image-frame { height: auto !important; min-height: 0 !important; }
#examples .grid-wrap { height: auto; min-height: 0; max-height: none; }
#examples .grid-container { grid-template-columns: repeat(6, minmax(0, 1fr)); padding-top: 0; }
@media (max-width: 500px) { #examples .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)); } }
"""
# Gradio numbers the thumbnails for screen readers and leaves pictures without a name: both get the words beside them.
NAMES = """() => {
  const name = () => {
    document.querySelectorAll("#examples button:has(.caption-label)").forEach((button, i) => {
      const words = `Example ${i + 1}: ${button.querySelector(".caption-label").textContent.trim()}`;
      if (button.ariaLabel !== words) button.ariaLabel = words;
    });
    for (const picture of document.querySelectorAll(".three img")) {
      const model = picture.closest("#undefended, #hardened").id;
      const words = `${model}: ${picture.closest(".image").querySelector("label").textContent.trim()} image`;
      if (picture.alt !== words) picture.alt = words;
    }
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();
}"""


class Page:
    """What the page shows of a demo, and what happens on it; one event at a time runs a model."""

    def __init__(self, demo: Demo):
        self.demo = demo
        self.attack = demo.published.attack if demo.published else demo.attacks[0]
        self.eps = demo.published.eps if demo.published else demo.eps[len(demo.eps) // 2]

    def blocks(self) -> gr.Blocks:
        """The page itself."""
        with gr.Blocks(title="Two models under attack", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
            gr.HTML(
                "<h1>An undefended and a hardened model under attack</h1><p>Choose an image, an attack and how far it "
                "may change each pixel, and see what both models make of it.</p>"
            )
            images = gr.State(time_to_live=KEPT)
            with gr.Row():
                with gr.Column():
                    examples, upload = self.images_to_choose()
                with gr.Column():
                    attack, eps, words, run = self.attacks_to_choose()
            verdict = gr.HTML(NOTHING_CHOSEN, elem_id="verdict", elem_classes="verdict")
            shown = []
            with gr.Row():
                for name in self.demo.models:
                    with gr.Column(elem_id=name, min_width=300):
                        shown += self.columns(name)
            settings = {
                "api_visibility": "private",
                "concurrency_id": "models",
                "concurrency_limit": 1,
                "show_progress_on": verdict,
            }
            examples.select(self.choose_example, None, [upload, images, verdict, *shown], **settings)
            upload.upload(self.choose_file, upload, [images, verdict, *shown], **settings)
            run.click(self.run_attack, [images, attack, eps], [verdict, *shown], **settings)
            changes = [attack.change, eps.change]
            quick = {"api_visibility": "private", "show_progress": "hidden"}
            gr.on(changes, self.attacker_words, [attack, eps], words, **quick)
            blocks.load(None, js=NAMES, api_visibility="private")
        return blocks.queue(max_size=LONGEST_QUEUE)

    def images_to_choose(self) -> tuple[gr.Gallery, gr.File]:
        """Examples, and where a file can be dropped."""
        pictures = [enlarged(self.demo.view(image)[HARDENED][0]) for image in self.demo.examples["image"]]
        labels = [self.demo.class_names[label] for label in self.demo.examples["label"]]
        examples = gr.Gallery(
            list(zip(pictures, labels, strict=True)),
            label="1. Choose an image",
            format="png",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_classes="image",
            elem_id="examples",
        )
        return examples, gr.File(label="or drop a file", height=120, elem_id="upload")

    def attacks_to_choose(self) -> tuple[gr.Dropdown, gr.Radio, gr.HTML, gr.Button]:
        """Attack, eps, what they mean, and the button."""
        choices = [(eps_words(eps), eps) for eps in self.demo.eps]
        return (
            gr.Dropdown(self.demo.attacks, value=self.attack, label="2. Attack", filterable=False, elem_id="attack"),
            gr.Radio(choices, value=self.eps, label="3. Eps, how far it may go (pixels are in [0, 1])", elem_id="eps"),
            gr.HTML(self.attacker_words(self.attack, self.eps), elem_id="words", elem_classes="words"),
            gr.Button("Attack", variant="primary", elem_id="run"),
        )

    def columns(self, name: str) -> list[gr.Image | gr.Label]:
        """Of one model: three pictures and two predictions."""
        source = html.escape(public_name(self.demo.sources[name]))
        gr.HTML(f"<h2>{name} <small class='words'>{source}</small></h2>")
        with gr.Row(elem_classes="three"):
            pictures = [
                gr.Image(label=label, format="png", interactive=False, buttons=[], elem_classes="image")
                for label in ("clean", "perturbation", "attacked")
            ]
        with gr.Row(elem_classes="two"):
            return [*pictures, *(gr.Label(label=label) for label in ("clean", "attacked"))]

    def choose_example(self, event: gr.SelectData) -> list:
        """Like `choose_file`, and first None for the file that was dropped before."""
        return [None, *self.choose(self.demo.examples[event.index]["image"])]

    def choose_file(self, path: str) -> list:
        """The image as the models see it, a sentence, and what is shown before any attack; a bad file clears all."""
        try:
            return self.choose(read_image(path))
        except UserError as error:
            gr.Warning(html.escape(str(error)))
            return [None, NOTHING_CHOSEN, *[None] * (SHOWN_BY_MODEL * len(self.demo.models))]

    def choose(self, image: PILImage.Image) -> list:
        images = self.demo.view(image)
        shown = []
        for name, predicted in self.demo.predictions(images).items():
            shown += [enlarged(images[name][0]), None, None, predicted, None]
        return [images, "<p>Not attacked yet.</p>", *shown]

    def run_attack(self, images, attack: str, eps: float, progress=gr.Progress()) -> list:  # noqa: B008
        """The verdict, and for each model its three pictures and its two predictions."""
        if images is None:
            raise gr.Error("Choose an example or drop a file first.", print_exception=False)

        def tell(passes: int) -> None:
            progress((passes, None), desc=f"{attack}, eps {eps:.3g}", unit="passes through a model")

        try:
            outcomes = self.demo.attack(images, attack, eps, tell)
        except UserError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error
        shown = []
        for outcome in outcomes.values():
            pictures = [enlarged(each) for each in (outcome.image, amplified(outcome), outcome.attacked)]
            shown += [*pictures, outcome.before, outcome.after]
        return [verdict_words(outcomes, self.threat(attack, eps), self.demo.norm(attack)), *shown]

    def attacker_words(self, attack: str, eps: float) -> str:
        """HTML: the norm, the eps, and what the attacker has."""
        return f"<p>{self.threat(attack, eps)}. {html.escape(self.demo.knowledge(attack, eps))}</p>"

    def threat(self, attack: str, eps: float) -> str:
        """HTML: attack, norm and eps."""
        norm = self.demo.norm(attack)
        return f"{html.escape(attack)}, {NORMS[norm]}, eps {eps_words(eps, norm)}"


def verdict_words(outcomes: dict[str, Outcome], threat: str, norm: str) -> str:
    """HTML: what each model says of the image before and under the attack, and how far the image was moved."""
    said = []
    for name, outcome in outcomes.items():
        before, after = (html.escape(next(iter(each))) for each in (outcome.before, outcome.after))
        mark = "<span class='fooled'>(fooled)</span>" if outcome.fooled else "<span class='right'>(not fooled)</span>"
        said.append(f"{name}: {before} &rarr; {after} {mark}")
    moved = ", ".join(f"{name} {eps_words(each.distance, norm)}" for name, each in outcomes.items())
    return (
        f"<p>{'; '.join(said)}</p><p><small>{threat}. The image was moved by: {moved}. Perturbations are drawn "
        "amplified, gray is no change.</small></p>"
    )


def launch(demo: Demo) -> None:
    """Serves the page until it is stopped."""
    Page(demo).blocks().launch(
        share=False,
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        css=CSS,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )
