"""How are adapters exchanged with Hugging Face's PEFT? As LoRA beside a MarianMTModel, in both directions.

The files are those of PEFT 0.21. PEFT loads what is written on the base that `segue export BASE huggingface` wrote;
what PEFT saved becomes an adapter of the base that `segue import` made. PEFT does not say which weights an adapter
belongs to.
"""

import json
import math
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file
from torch import Tensor

from segue import card, tasks
from segue.data.vocabularies import TO_LANGUAGE, Vocabularies
from segue.engine.state.adapter import ADAPTER, AdapterSection
from segue.engine.state.checkpoint import WEIGHTS, checksum_of, write_tensors, write_text
from segue.engine.state.start import StartSection
from segue.errors import UserError, some_of
from segue.formats import huggingface, weights
from segue.formats.exporter import Exporter
from segue.formats.huggingface import TransformersBackend, marian_name
from segue.formats.imported import Imported
from segue.formats.settings import read_json
from segue.layers import lora
from segue.models.transformer import Transformer
from segue.starting import story
from segue.tasks import translation
from segue.tasks.translation import Trained

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
OLD_TENSORS = "adapter_model.bin"
"""What PEFT saved before version 0.6."""
_PREFIX = "base_model.model."
_MATRICES = {lora.A: "lora_A.weight", lora.B: "lora_B.weight"}


def write(trained: Trained, folder: Path) -> None:
    """Writes the adapter of a restored model directory. Raises a UserError if it has none, or PEFT cannot hold it."""
    section, start = trained.recipe, trained.recipe.start
    if start.adapter is None:
        raise UserError(f"{trained.folder}: no adapter, as PEFT holds; export it to huggingface")
    huggingface.check(section.model, trained.vocabularies, section.text)
    assert start.model is not None
    base = Vocabularies.load(tasks.folder_of(Path(start.model)))
    if base.target.tokens != trained.vocabularies.target.tokens:
        raise UserError(
            f"{trained.folder}: tokens unlike its base's, which PEFT cannot load; export the whole model to huggingface"
        )
    own = load_file(trained.folder / ADAPTER)
    whole = huggingface.weights(trained.model)
    found: dict[str, Tensor] = {}
    adapted, learned = set[str](), set[str]()
    for name, tensor in own.items():
        layer, _, last = name.rpartition(".")
        theirs = marian_name(f"{layer}.weight", trained.model).removesuffix(".weight")
        if last in _MATRICES:
            adapted.add(theirs)
            found[f"{_PREFIX}{theirs}.{_MATRICES[last]}"] = tensor.float().contiguous()
        elif _is_output(name, trained.model) or f"{theirs}.{last}" not in whole:
            raise UserError(
                f"start.adapter.learn: {name} is trained, too, and is the output layer or its bias, which PEFT cannot "
                "hold; export the whole model to huggingface"
            )
        else:
            learned.add(theirs)
    found |= {f"{_PREFIX}{name}": whole[name] for name in whole if name.rpartition(".")[0] in learned}
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM",
        "r": start.adapter.rank,
        "lora_alpha": start.adapter.alpha,
        "target_modules": sorted(adapted),
        "modules_to_save": sorted(learned) or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "base_model_name_or_path": None,
    }
    write_tensors(folder / TENSORS, found, {"format": "pt"})
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def read(source: Path, base: Path) -> Imported:
    """An adapter that PEFT saved, as one of the model directory `base`.

    Raises a UserError if it is another kind of adapter, or of a model with other layers.
    """
    folder = tasks.folder_of(base)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"--base: {base} is an adapter; make a model of it first: segue merge {base} OUT")
    trained = tasks.restore(folder)
    if not isinstance(trained, Trained):
        raise UserError(f"--base: {base}: PEFT's adapters are known for translators (MarianMTModel) only")
    section, learn, found, file = _adapter(source, trained)
    checksum = checksum_of(folder / WEIGHTS)
    start = StartSection(
        model=str(base),
        adapter=section.model_copy(update={"learn": learn}),
        checksum=checksum,
        story=story(folder, trained.recipe, checksum),
    )
    languages = trained.vocabularies.languages
    return Imported(
        trained.recipe.model_copy(update={"start": start}),
        found,
        file,
        trained.vocabularies.save,
        title="Translation model",
        kind="translation",
        facts=("An adapter of Hugging Face's PEFT.", *start.facts()),
        use=lambda name: translation.use(name, languages),
        languages=languages,
        saved_as=ADAPTER,
    )


def _adapter(source: Path, trained: Trained) -> tuple[AdapterSection, tuple[str, ...], dict[str, Tensor], Path]:
    """Its settings, what it trains beside matrices, its tensors by our names, and their file."""
    settings = read_json(source / CONFIG)
    settings.require(
        {
            "peft_type": ("LORA",),
            "bias": ("none",),
            "use_dora": (False,),
            "fan_in_fan_out": (False,),
            "rank_pattern": ({},),
            "alpha_pattern": ({},),
        }
    )
    rank = settings.get("r", int)
    scale = settings.get("lora_alpha", float) / (math.sqrt(rank) if settings.get("use_rslora", bool, False) else rank)
    file, tensors = weights.of_folder(source, (TENSORS, OLD_TENSORS))
    plain = trained.model.state_dict()
    layers = {
        marian_name(f"{name}.weight", trained.model).removesuffix(".weight"): (name, layer.weight.shape)
        for name, layer in trained.model.named_modules()
        if lora.is_adaptable(layer)
    }
    names, shapes = dict[str, str](), dict[str, tuple[int, ...]]()
    for layer, (name, (outputs, inputs)) in layers.items():
        matrices = {lora.A: (rank, inputs), lora.B: (outputs, rank)}
        for matrix, shape in matrices.items():
            theirs = f"{_PREFIX}{layer}.{_MATRICES[matrix]}"
            if any(f"{_PREFIX}{layer}.{each}" in tensors for each in _MATRICES.values()):
                names[theirs], shapes[theirs] = f"{name}.{matrix}", shape
    adapted = tuple(dict.fromkeys(name.rpartition(".")[0] for name in names.values()))
    learn = []
    for name, tensor in plain.items():
        theirs = _PREFIX + marian_name(name, trained.model)
        if theirs in tensors and theirs not in names:
            if _is_output(name, trained.model):  # PEFT replaces the embedding, and not the output layer
                raise UserError(f"{file}: {theirs}: embeddings that are the output layer as well cannot be imported")
            names[theirs], shapes[theirs] = name, tuple(tensor.shape)
            learn.append(name)
    unknown = [f"  {name}" for name in tensors if name not in names]
    if unknown or not adapted:
        raise UserError(
            f"{file}: not an adapter of this base, a MarianMTModel in Hugging Face's names:\n"
            f"{some_of(unknown or ['  no low-rank matrices'], 3)}"
        )
    weights.check(tensors, shapes, str(file), "the base")
    section = AdapterSection(rank=rank, alpha=scale * rank, parts=adapted)
    return section, tuple(learn), {names[theirs]: tensor.float() for theirs, tensor in tensors.items()}, file


def _is_output(name: str, model: Transformer) -> bool:
    """Whether a tensor is an embedding that is the output layer as well."""
    return name.startswith("target_embedding.") and model.head is None


def _run(trained: Trained, folder: Path, threads: int) -> TransformersBackend:
    """The adapter, loaded by PEFT beside its base, which transformers loaded."""
    del threads
    from peft import PeftModel

    assert trained.recipe.start.model is not None
    base: Trained = tasks.restore(Path(trained.recipe.start.model))
    with TemporaryDirectory() as exported:
        section = base.recipe
        huggingface.write(base.model, section.model, base.vocabularies, section.search, Path(exported), section.text)
        backend = TransformersBackend(Path(exported), trained.vocabularies.end)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT and transformers, of each other
        backend.model = PeftModel.from_pretrained(backend.model, str(folder)).eval()
    return backend


def _use(trained: Trained, folder: str) -> str:
    languages = trained.vocabularies.languages
    language = f"{TO_LANGUAGE.format(languages[0])} " if len(languages) > 1 else ""
    code = f"""from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("base_hf")
model = AutoModelForSeq2SeqLM.from_pretrained("base_hf")
model = PeftModel.from_pretrained(model, "{folder}")
batch = tokenizer(["{language}a line of text"], return_tensors="pt", padding=True)
print(tokenizer.decode(model.generate(**batch)[0], skip_special_tokens=True))"""
    base = trained.recipe.start.model
    return f"With PEFT, beside its base (`segue export {base} huggingface base_hf`):\n\n{card.python(code)}"


def _write(trained: Trained, folder: Path, kind: str) -> None:
    del kind
    write(trained, folder)


TEXT = Exporter(packages=("peft", "transformers"), write=_write, run=_run, use=_use, quantizations=())
