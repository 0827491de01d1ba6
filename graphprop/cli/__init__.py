"""The ``graphprop`` command: compile, check, explain, inspect, methods.

Here are the commands with their arguments and help. What each does is in `commands`, which needs
torch and is imported when a command runs: help has to appear at once.
"""

# click reads a backspace as "don't wrap this paragraph", so that the help texts can't be raw:
# ruff: noqa: D301

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphprop import builtin
from graphprop.cli.drawing import drawing_options
from graphprop.cli.explain_options import explain_options
from graphprop.cli.figure_options import figure_options
from graphprop.cli.options import (
    compared_options,
    completing,
    debug_option,
    fit_option,
    import_option,
    json_option,
    model_options,
)
from graphprop.cli.page_options import page_options
from graphprop.cli.preprocessing_options import preprocessing_options
from graphprop.cli.program import Program
from graphprop.cli.report import report_options
from graphprop.signals import ending_at_once
from graphprop.version import __version__


def command(name: str) -> Any:
    """The function of `commands` that does what a command is for; importing torch takes seconds."""
    with ending_at_once():
        from graphprop.cli import commands
    return getattr(commands, name)


@click.group(
    "graphprop",
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
)
@click.version_option(__version__, prog_name="graphprop")
@debug_option
def main() -> None:
    """Compile trained PyTorch networks to stand-alone relevance-propagation modules.

    \b
    A first run:
      graphprop compile models/digits.py
      graphprop explain build/digits-epsilon_plus_flat models/digits_examples/3.png

    Results go to stdout, progress and errors to stderr. The exit code is 0 where all went well,
    1 where a check found a difference, 2 for wrong input or usage, 3 for a defect in graphprop
    (explain of a data set: some pictures failed).

    \b
    Names are completed in the shell (also: zsh_source, fish_source) after
      eval "$(_GRAPHPROP_COMPLETE=bash_source graphprop)"
    """


@main.command("compile", short_help="Compile a model, and check the result.")
@model_options
@preprocessing_options
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to write.  [default: build/<model>-<method>]",
)
@click.option("--no-onnx", is_flag=True, help="Write no ONNX file.")
@click.option("--no-check", is_flag=True, help="Don't check that all backends agree.")
@click.option(
    "--force", is_flag=True, help="Replace what graphprop wrote to DIR; other files there stay."
)
@click.option(
    "--dump-ir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the network after each pass, as text, into a folder, and a page, index.html, that "
    "steps through the passes.",
)
@fit_option
@json_option
@debug_option
def compile_(as_json: bool, **options: Any) -> None:
    """Compile a model into a module that explains it, and check it.

    SOURCE is path/model.py, path/model.py:attribute or package.module:callable. The model's file
    is code, and is run. In a file, the model is what is called `model`, what `build_model()`
    returns, or the only torch.nn.Module defined there; `example_input` gives the input's shape.

    \b
    Written to DIR:
      explainer.py          load() and class Explainer: needs torch and safetensors, nothing else
      weights.safetensors   its weights
      explainer.onnx        the same for ONNX Runtime
      manifest.json         method, parameters, layers with their rules, results of the check

    How a picture becomes an input is said by --preprocessing and the options after it, or by
    `preprocessing` in the model's file: a dictionary with mean, std, resize, interpolation,
    channels, range. It is recorded, and `graphprop explain` can say it otherwise. Where nobody
    says it, pictures get values from 0 to 1, and a warning says so: logits and maps of a network
    that was trained otherwise are wrong then.

    \b
    PATTERN is a layer's path or label (features.*), operator (conv) or class (Conv2d); role:NAME
    and type:NAME say which. `graphprop inspect SOURCE` shows them.

    \b
    Examples:
      graphprop compile model.py --weights model.safetensors
      graphprop compile model.py:resnet --method lrp_epsilon --set epsilon=0.01
      graphprop compile model.py --rule features.0=w_square --rule 'fc.*=epsilon:epsilon=0.1'
      graphprop compile torchvision.models:vgg16 --input-shape 3,224,224 -o build/vgg
      graphprop compile model.py --preprocessing imagenet --interpolation bicubic
      graphprop compile caffe.py --channels BGR --range 0,255 --mean 104,117,123
    """
    command("run_compile")(as_json, **options)


@main.command("check", short_help="Check that all backends agree.")
@click.argument(
    "directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR..."
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many inputs of noise to compare on, beside one of every other kind.  [default: 2, "
    "of a large network 1]",
)
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare on these inputs, too: an .npy file of shape N,C,H,W.",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="NAME",
    help="Check this backend only. Repeatable.  [default: python, onnxruntime, onnx.reference]",
)
@click.option(
    "--atol",
    type=click.FloatRange(min=0),
    metavar="A",
    help="Let a sample pass where |a - ref| <= A + R * |ref|, in the 2-norm.",
)
@click.option("--rtol", type=click.FloatRange(min=0), metavar="R", help="See --atol.")
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    metavar="TYPE",
    help="Check the generated module in float16 or bfloat16, too. Repeatable.",
)
@click.option(
    "--device",
    metavar="NAME",
    help="Check on another device, too: cuda, or one of several, cuda:1.",
)
@click.option(
    "--allow-changed", is_flag=True, help="Only warn of files that differ from what was written."
)
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the results as JUnit XML.",
)
@json_option
@debug_option
def check(as_json: bool, **options: Any) -> None:
    """Check that what was compiled computes the same on every backend.

    Each backend is compared with the same graph in float64: on noise, on sparse, blank and
    constant inputs, on a picture if one lies in DIR, alone and in batches, with every kind of
    target. It may be off by ten times the error of torch in float32, and both are printed; where
    it is off by more, every step is compared. On a difference, the first layer that diverges is
    named and the exit code is 1. It is 1, too, where a file differs from what was written, where
    nothing could be compared, and where a map can't be computed in a --dtype.

    The code in DIR is run, except where the backend python is not to be checked: the others are
    then compared with what was recorded when DIR was written.

    The backends web and webgpu are onnxruntime-web in a headless Chromium, which runs what
    `graphprop page` makes a page of; they are skipped where there is none.

    \b
    Examples:
      graphprop check build/digits-epsilon_plus_flat
      graphprop check build/digits-epsilon_plus_flat --samples 10 --json
      graphprop check build/* --junit check.xml
      graphprop check build/digits-rap --dtype float16 --dtype bfloat16
      graphprop check build/vgg16-rap --inputs photos.npy --rtol 1e-4
    """
    code = command("run_check")(as_json, **options)
    if code:
        click.get_current_context().exit(code)


@main.command("explain", short_help="Explain pictures by a compiled model.")
@explain_options
@json_option
@debug_option
def explain(as_json: bool, **options: Any) -> None:
    """Explain pictures with what was compiled into DIR, or into several.

    IMAGE is a file, a folder of pictures or a glob; a DIR is told from it by the manifest.json that
    it holds. DIR's explainer.py is code, and is run; of a directory that you don't trust, let ONNX
    Runtime run explainer.onnx, by --backend onnxruntime. Nothing is compiled. A picture is scaled
    to cover the input's size and cropped to its center, turned to grayscale for a network with one
    channel, and normalized as DIR's manifest says. An .npy holds an input as it is; of a volume,
    the central slice is drawn.

    \b
    Written to OUT:
      <name>.npz   of each map: relevance [C,H,W], logits, target and scale, as computed; with
                   -<method> and -<class> in the name where there are several
      <name>.png   of each picture: the input, and its maps by all DIRs and classes, summed over
                   channels: red positive, blue negative, white zero; below each its scale

    A map that is zero everywhere or holds NaN is not drawn; a warning on stderr says so.
    How pictures are prepared is what DIR's manifest records; options from --preprocessing on say
    it otherwise, for networks of which nobody has said it (there is a warning then).

    A data set (a folder, a .txt of paths, .tar shards of WebDataset, .parquet) goes to one .zarr or
    .h5. What can't be read is listed in OUT.failures.parquet, and the exit code is 3. A run that
    was stopped, by whatever, goes on by --resume, and its store is the same to the byte.

    \b
    Examples:
      graphprop explain build/digits-epsilon_plus_flat models/digits_examples/3.png
      graphprop explain build/vgg16-epsilon_plus_flat cat.jpg --target 281 -o cat_281.png
      graphprop explain build/vgg16-* photos --overlay --smooth 1 -o sheet.pdf
      graphprop explain build/vgg16-rap cat.jpg --top 3 --cmap colorblind --percentile 99.5
      graphprop explain build/vgg16-rap cat.jpg --target tabby --versus 'tiger cat' -o why.svg
      graphprop explain build/vgg16-rap imagenet/val --target label --dtype float16 -o val.zarr
    """
    command("run_explain")(as_json, **options)


@main.command("summary", short_help="Sum up the maps of a data set.")
@click.argument("store", type=click.Path(path_type=Path), metavar="OUT")
@click.option(
    "-o",
    "drawing",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to draw: a .png, .svg or .pdf.  [default: OUT.summary.png]",
)
@click.option("--no-plots", is_flag=True, help="Draw nothing, and read no maps.")
@json_option
@debug_option
def summary(as_json: bool, **options: Any) -> None:
    """Sum up what `graphprop explain` wrote of a data set to OUT, a .zarr or an .h5.

    Prints how many maps there are of each class, how their sums are distributed, which share of the
    logit is swallowed by biases (of methods that are meant to conserve it), and which pictures have
    the most negative relevance; draws the mean map of the classes, and the distributions.

    \b
    Examples:
      graphprop summary val.zarr
      graphprop summary val.zarr -o summary.pdf --json
    """
    with ending_at_once():
        from graphprop.cli.dataset import run_summary
    run_summary(as_json, **options)


def list_metrics(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print the metrics, and nothing else."""
    if value:
        command("list_metrics")()
        ctx.exit()


@main.command("evaluate", short_help="Measure how good explanations are.")
@click.argument("directories", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR...]")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Pictures, with labels and masks where there are some.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME[:k=v,..]",
    help="Compute this metric. Repeatable.  [default: all]",
)
@click.option(
    "--list-metrics",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=list_metrics,
    help="List the metrics with their parameters, and exit.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use so many cases, chosen at random.  [default: all]",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="S",
    help="Of everything random.",
)
@compared_options
@click.option(
    "--resize",
    type=click.Choice(["cover", "stretch"]),
    default="cover",
    show_default=True,
    help="Scale a picture to cover the input and crop it to the center, or stretch it; masks too.",
)
@click.option("--boxes", is_flag=True, help="Use the boxes of objects where there are masks, too.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="N",
    help="Explain so many pictures at once.",
)
@click.option(
    "--baseline",
    "chosen_baselines",
    multiple=True,
    type=click.Choice(builtin.BASELINES),
    help="Evaluate this map beside them. Repeatable.  [default: random, uniform, edge]",
)
@click.option("--no-baselines", is_flag=True, help="Evaluate no such map.")
@click.option(
    "--occlusion",
    "with_occlusion",
    is_flag=True,
    help="Measure what hiding the object does to the network, and what hiding its context does.",
)
@click.option("--no-plots", is_flag=True, help="Draw nothing.")
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="The folder to write to.  [default: evaluation]",
)
@json_option
@debug_option
def evaluate(as_json: bool, **options: Any) -> None:
    """Measure how good explanations are, on pictures with labels and masks.

    Takes compiled directories, whose explainer.py is run; or a model to compile by several
    methods, by --model and --method. Maps that no method made are evaluated beside them, which it
    has to beat: random, uniform, and edge (Sobel), or those that --baseline names; occlusion (how
    far the logit falls when a window is covered) takes hundreds of predictions a picture.

    \b
    DATA is one of
      a folder of pictures, explained for the predicted class
      a folder with a folder of pictures for each class
      a COCO .json (boxes, polygons, RLE)
      a Pascal VOC folder (Annotations, JPEGImages, SegmentationObject)
      an .npz with images, labels and masks

    Printed is a table of methods and metrics, with 95 % intervals by bootstrap over the pictures; a
    star marks the best. A metric that needs masks has no value where there are none.

    \b
    Written to OUT:
      evaluation.json, evaluation.csv   the table, and with it mean curves
      cases.csv                         the value of each case
      *.png                             plots

    An evaluation that was stopped continues when it is started again with the same OUT.

    \b
    Examples:
      graphprop evaluate build/vgg16-* --data VOCdevkit/VOC2012 --samples 200
      graphprop evaluate --model model.py -m rap -m gradient --data photos.json --metric mu_w
      graphprop evaluate --model model.py -m hedge --sweep gamma=1,1.5,2 --data shapes.npz
    """
    command("run_evaluate")(as_json, **options)


@main.command("figure", short_help="Draw figures of explanations.")
@figure_options
@json_option
@debug_option
def figure(as_json: bool, **options: Any) -> None:
    """Draw explanations side by side, or what an evaluation measured.

    Takes compiled directories, whose explainer.py is run, or a model to compile by several methods;
    and pictures, or cases of --data as `graphprop evaluate` reads them.

    \b
    KIND is one of
      panel    methods by pictures and classes
      layers   relevance at the layers, from the last to the input (needs --model)
      flows    the flows of rap-bn at the input, and their sum (needs --model)
      signs    excitatory and inhibitory parts (by --model), positive and negative relevance, and
               how they correlate
      topk     the most relevant pixels, the picture that they leave, and its prediction
      sanity   maps of two classes, and after the weights of the last layers were permuted
      curves   perturbation curves with their intervals; DIR is what evaluate -o wrote
      size     mu, and the effect of occlusion, over the size of objects; DIR likewise

    Maps are drawn as by `graphprop explain`: red positive, blue negative, white zero. A map that is
    constant, zero or holds NaN says so.

    \b
    Examples:
      graphprop figure panel build/vgg16-* cat.jpg dog.jpg -o panel.png
      graphprop figure topk --model model.py -m rap -m gradient cat.jpg --top 5 -o topk.pdf
      graphprop figure layers --model model.py -m rap -m hedge cat.jpg --target 281 -o layers.svg
      graphprop figure curves evaluation --metric morf --metric lerf -o curves.png
    """
    command("run_figure")(as_json, **options)


@main.command("report", short_help="Write a report as one HTML page.")
@report_options
@json_option
@debug_option
def report(as_json: bool, **options: Any) -> None:
    """Write a report of what was compiled, as one HTML page that loads nothing.

    Takes compiled directories, and with them pictures (files, folders, globs), which their
    explainer.py is run to explain. A folder that `graphprop evaluate -o` wrote, among them or by
    --evaluation, is shown, too.

    \b
    Shown are
      the network with roles, rules and batch norms; and all that was set
      the check: each backend's error against what is allowed, from stage to stage
      the ledger: what arrives at each layer, and what biases and zero denominators took
      the pictures with their maps: opacity, colors and class are chosen in the page
      the tables and curves of evaluations

    \b
    Examples:
      graphprop report build/digits-epsilon_plus_flat models/digits_examples/*.png
      graphprop report build/vgg16-* photos --top 5 -o vgg16.html
      graphprop report build/vgg16-rap --evaluation evaluation --backend onnxruntime cat.jpg
    """
    with ending_at_once():
        from graphprop.cli.report import run_report
    run_report(as_json, **options)


@main.command("page", short_help="Make a web page that explains pictures.")
@page_options
@json_option
@debug_option
def page(as_json: bool, **options: Any) -> None:
    """Write a static site that runs DIR's explainer.onnx in the visitor's browser.

    Visitors drop, paste or take a picture, or draw one for a network with a single channel; logits
    and map are computed right there by onnxruntime-web, on WebAssembly or WebGPU, and a click
    chooses the class. Nothing is sent anywhere, and once loaded the page works offline. Any server
    of files will do, by https.

    Before anything is written, the network explains noise: by ONNX Runtime, and in a headless
    Chromium if there is one. What does not fit a browser, or gives another map there, is refused.

    The files of onnxruntime-web (40 MB) are fetched by npm the first time, and kept in the user's
    cache; --runtime, or the variable GRAPHPROP_ONNXRUNTIME_WEB, names a folder that holds them.

    \b
    Examples:
      graphprop page build/digits-rap -o build/page/digits
      graphprop page build/efficientnet_lite0-rap --example cat.jpg -o site
      python -m http.server -d site
    """
    with ending_at_once():
        from graphprop.cli.page import run_page
    run_page(as_json, **options)


@main.command("profile", short_help="Show where the time of an explanation goes.")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Explain so many samples of noise at once.",
)
@click.option(
    "--backend",
    type=click.Choice(["python", "onnxruntime"]),
    default="python",
    show_default=True,
    help="What computes: DIR's explainer.py, or ONNX Runtime, which runs no code from DIR.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Take medians over so many runs.",
)
@click.option(
    "-o",
    "trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write one run as a Chrome trace (JSON).",
)
@json_option
@debug_option
def profile(as_json: bool, **options: Any) -> None:
    """Show how long each layer of what was compiled takes, its result and its rule apart.

    Prints a table, the layers that take longest first, and the peak of memory during a call.

    \b
    Examples:
      graphprop profile build/vgg16-rap
      graphprop profile build/vgg16-rap --batch 8 --backend onnxruntime -o trace.json
    """
    with ending_at_once():
        from graphprop.cli.profile import run_profile
    run_profile(as_json, **options)


@main.command("inspect", short_help="Show layers, rules and batch norms.")
@model_options
@drawing_options
@json_option
@debug_option
def inspect(as_json: bool, **options: Any) -> None:
    """Show a model's layers, the rule each gets, and what is done with each batch norm.

    Takes a SOURCE and options as `graphprop compile` does, and writes nothing but the drawings that
    are asked for. The model's file is code, and is run. "Input sign" is which signs a layer's input
    can have: where no entry is negative, half of many rules falls away.

    \b
    Examples:
      graphprop inspect models/resnet50.py
      graphprop inspect models/resnet50.py --method rap --svg resnet50.svg --html resnet50.html
      graphprop inspect model.py --method lrp_cmp_alpha2_flat --set flat_layers=3
    """
    command("run_inspect")(as_json, **options)


@main.command("methods", short_help="List methods and rules.")
@click.argument(
    "name",
    required=False,
    metavar="[NAME]",
    shell_complete=completing(*dict.fromkeys((*builtin.METHODS, *builtin.RULES))),
)
@click.option("--recommend", is_flag=True, help="Which method to use for what, as measured.")
@import_option
@json_option
@debug_option
def methods(as_json: bool, name: str | None, imports: tuple[str, ...], recommend: bool) -> None:
    """List the methods and rules by groups, a sentence each.

    With NAME, show one of them whole: its table, formulas and source, and what each parameter is by
    default and can be.

    \b
    Parameters of a method are set by --set, those of one layer's rule in --rule:
      graphprop compile model.py --method lrp_epsilon --set epsilon=0.01
      graphprop compile model.py --rule 'fc.*=epsilon:epsilon=0.1,bias=ignored'

    \b
    Examples:
      graphprop methods epsilon_plus_flat
      graphprop methods --recommend
      graphprop methods --import my_rules.py
    """
    with ending_at_once():  # without the compiler: listing takes little more than importing torch
        from graphprop.cli.catalog import run_methods
    run_methods(as_json, name, imports, recommend)
