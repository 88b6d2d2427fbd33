"""Motion capture in the ASF/AMC formats: a figure's bones, and the angles of its joints frame by frame.

An .asf file describes one figure: bones with their direction and length at rest, the axes that each turns about, and
the tree that they form. An .amc file holds a clip of that figure: for every frame the root's place and turn and every
bone's angles. Files have no frame rate.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from jaxpose.errors import DataError
from jaxpose.files import fields
from jaxpose.files.fields import FieldError

METRES_PER_INCH = 0.0254
_ROOT_ORDER = ("tx", "ty", "tz", "rx", "ry", "rz")
_TURNS = ("rx", "ry", "rz")
LONGEST_WORD = 64
"""Most letters of a word in a clip."""
_ANGLES = {":degrees": np.pi / 180, ":radians": 1.0}


@dataclasses.dataclass(frozen=True)
class Bone:
    """A rigid piece of a figure.

    Attributes:
      name: name of the bone in both files.
      parent: name of the bone at whose end it starts; "root" for the first ones.
      offset: [3] metres from the bone's start to its end at rest, along the world's axes.
      axes: [3, 3] matrix whose columns are the bone's own axes at rest, about which it turns.
      freedoms: axes of its angles in the clip, some of "rx", "ry", "rz"; they turn in this order.
    """

    name: str
    parent: str
    offset: np.ndarray
    axes: np.ndarray
    freedoms: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Figure:
    """The content of an .asf file.

    Attributes:
      path: path of the file, for messages.
      bones: bones, every one after its parent.
      scale: metres in a unit of length of the clips.
      radians: radians in a unit of angle.
      root_order: meaning of the root's numbers in a clip, "tx", "ty", "tz", "rx", "ry", "rz" in some order.
    """

    path: str
    bones: tuple[Bone, ...]
    scale: float
    radians: float
    root_order: tuple[str, ...]

    def rest(self) -> dict[str, np.ndarray]:
        """The ends of the bones with all angles zero and the root at the origin: {name: [3]}, metres, y up."""
        zero = np.zeros((1, len(self.root_order)))
        still = {bone.name: np.zeros((1, len(bone.freedoms))) for bone in self.bones}
        return {name: end[0] for name, end in self.pose({"root": zero} | still).items()}

    def pose(self, clip: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The ends of the bones in every frame of a clip (forward kinematics).

        Args:
          clip: angles of the bones, as `read_clip` gives them.

        Returns:
          {"root" and names of bones: [T, 3]} ends in metres of the world, y up.
        """
        places = dict(zip(self.root_order, clip["root"].T, strict=True))
        turns = [axis for axis in self.root_order if axis.startswith("r")]
        ends = {"root": np.stack([places[axis] for axis in ("tx", "ty", "tz")], -1) * self.scale}
        rotation = {"root": euler_matrix("".join(turns), np.stack([places[axis] for axis in turns], -1) * self.radians)}
        for bone in self.bones:
            turn = euler_matrix("".join(bone.freedoms), clip.get(bone.name, _NO_ANGLES) * self.radians)
            rotation[bone.name] = rotation[bone.parent] @ (bone.axes @ turn @ bone.axes.T)
            ends[bone.name] = ends[bone.parent] + rotation[bone.name] @ bone.offset
        return ends


_NO_ANGLES = np.zeros((1, 0))


def euler_matrix(order: str, angles: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] that turn about the fixed axes of `order` ("xyz", "rxry", ...), the first one first.

    Args:
      order: letters x, y, z; any r is skipped.
      angles: [..., n] radians, one for every letter.
    """
    rotation = np.broadcast_to(np.eye(3), (*angles.shape[:-1], 3, 3))
    for i, letter in enumerate(order.lower().replace("r", "")):
        sine, cosine = np.sin(angles[..., i]), np.cos(angles[..., i])
        a, b = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[letter]
        turn = np.broadcast_to(np.eye(3), rotation.shape).copy()
        turn[..., a, a], turn[..., b, b] = cosine, cosine
        turn[..., a, b], turn[..., b, a] = -sine, sine
        rotation = turn @ rotation
    return rotation


def read_figure(path: str | pathlib.Path) -> Figure:
    """Reads an .asf file.

    Raises:
      DataError: the file is missing, is none, or describes what cannot be posed.
    """
    sections = _sections(path)
    units = {words[0]: words[1] for words in sections["units"] if len(words) == 2}
    root = {words[0]: words[1:] for words in sections["root"]}
    order = tuple(word.lower() for word in root.get("order", ()))
    if sorted(order) != sorted(_ROOT_ORDER):
        raise DataError(f"{path}: field 'order' of :root is {order}; expected the six of {_ROOT_ORDER} in any order")
    if any(_numbers(path, "orientation of :root", root.get("orientation", ["0"]))):
        raise DataError(
            f"{path}: field 'orientation' of :root is {root['orientation']}; expected 0 0 0: turn the clips"
        )
    length = _numbers(path, "length of :units", [units.get("length", "1")])[0]
    if length <= 0:
        raise DataError(f"{path}: field 'length' of :units is {length:g}; expected units to the inch, more than 0")
    scale = METRES_PER_INCH / length
    radians = {"deg": _ANGLES[":degrees"], "rad": _ANGLES[":radians"]}.get(units.get("angle", "deg"))
    if radians is None:
        raise DataError(f"{path}: field 'angle' of :units is {units['angle']!r}; expected deg or rad")
    described: dict[str, dict] = {}
    for bone in _blocks(path, sections["bonedata"]):
        if (name := bone["name"][0]) in described:
            raise DataError(f"{path}: :bonedata has two bones {name!r}; fetch the file again")
        described[name] = bone
    bones = []
    for name, parent in _tree(path, sections["hierarchy"], described):
        bones.append(_bone(path, described[name], parent, scale, radians))
    return Figure(str(path), tuple(bones), scale, radians, order)


def _sections(path: str | pathlib.Path) -> dict[str, list[list[str]]]:
    """The file's sections as lines of words."""
    sections: dict[str, list[list[str]]] = {}
    name = ""
    for line in _read(path, "an .asf file").splitlines():
        words = line.split("#")[0].split()
        if words and words[0].startswith(":"):
            name = words[0][1:].lower()
            sections[name] = []
        elif words and name:
            sections[name].append(words)
    missing = [name for name in ("units", "root", "bonedata", "hierarchy") if name not in sections]
    if missing:
        raise DataError(f"{path}: has no sections {missing}; expected an .asf file, which has them. Fetch it again.")
    return sections


def _read(path: str | pathlib.Path, what: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="latin-1")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected {what}") from error


def _blocks(path: str | pathlib.Path, lines: list[list[str]]) -> Iterable[dict[str, list[str]]]:
    """The bones between "begin" and "end": {field: words}."""
    block: dict[str, list[str]] = {}
    for words in lines:
        if words[0] == "begin":
            block = {}
        elif words[0] != "end":
            block.setdefault(words[0], words[1:])
        elif missing := [field for field in ("name", "direction", "length", "axis") if not block.get(field)]:
            name = fields.shown(" ".join(block.get("name", [])) or "?")
            raise DataError(f"{path}: bone {name} has no fields {missing}; fetch the file again")
        else:
            yield block


def _tree(path: str | pathlib.Path, lines: list[list[str]], described: dict[str, dict]) -> Iterable[tuple[str, str]]:
    """(bone, its parent), every bone after its parent."""
    known = {"root"}
    for parent, *children in (words for words in lines if words[0] not in ("begin", "end")):
        for child in children:
            if parent not in known or child in known or child not in described:
                raise DataError(
                    f"{path}: :hierarchy hangs {child!r} below {parent!r}; expected a bone of :bonedata that comes "
                    "once, below one that came before"
                )
            known.add(child)
            yield child, parent
    if lost := sorted(described.keys() - known):
        raise DataError(f"{path}: :hierarchy leaves out the bones {lost} of :bonedata")


def _bone(path: str | pathlib.Path, said: dict[str, list[str]], parent: str, scale: float, radians: float) -> Bone:
    name = said["name"][0]
    direction = np.array(_numbers(path, f"direction of bone {name!r}", said["direction"]))
    length = _numbers(path, f"length of bone {name!r}", said["length"])[0]
    *angles, order = said["axis"]
    axes = np.array(_numbers(path, f"axis of bone {name!r}", angles))
    freedoms = tuple(word.lower() for word in said.get("dof", ()))
    if len(direction) != 3 or len(axes) != 3 or sorted(order.lower()) != ["x", "y", "z"]:
        raise DataError(
            f"{path}: bone {name!r} has direction {said['direction']} and axis {said['axis']}; expected three "
            "numbers, and three numbers with their order such as XYZ"
        )
    if strange := sorted(word for word in freedoms if word not in _TURNS or freedoms.count(word) > 1):
        raise DataError(f"{path}: field 'dof' of bone {name!r} has {strange}; expected rx, ry, rz, each once")
    return Bone(name, parent, direction * length * scale, euler_matrix(order, axes * radians), freedoms)


def _numbers(path: str | pathlib.Path, field: str, words: list[str]) -> list[float]:
    try:
        return fields.numbers({field: words}, field).tolist()
    except FieldError:
        shown = fields.shown(" ".join(words))
        raise DataError(f"{path}: {field} is {shown}; expected numbers. Fetch the file again.") from None


def read_clip(path: str | pathlib.Path, figure: Figure) -> dict[str, np.ndarray]:
    """Reads an .amc file.

    Args:
      path: path of the file.
      figure: figure that moves in the clip.

    Returns:
      {"root" and names of bones that turn: [T, n]}, the numbers as written.

    Raises:
      DataError: the file is missing, is none, is of another figure, or is cut off.
    """
    words = re.sub("(?m)^#.*$", "", _read(path, "an .amc file")).split()
    if long := next((word for word in words if len(word) > LONGEST_WORD), None):
        raise DataError(f"{path}: has the word {fields.shown(long)}; expected names of bones and numbers")
    first = next((i for i, word in enumerate(words) if _is_number(word)), len(words))
    for word in words[:first]:
        if _ANGLES.get(word.lower(), figure.radians) != figure.radians:
            raise DataError(f"{path}: says {word}, which is not the unit of angles of {figure.path}; expected the same")
    columns = [("root", len(figure.root_order))]
    columns += [(bone.name, len(bone.freedoms)) for bone in figure.bones if bone.freedoms]
    sizes = dict(columns)
    layout = _layout(words[first + 1 :], len(columns))
    if sorted(layout) != sorted(sizes):
        strange, lost = sorted(set(layout) - set(sizes)), sorted(set(sizes) - set(layout))
        raise DataError(
            f"{path}: the first frame has the unknown bones {strange} and lacks {lost} of {figure.path}; expected a "
            "clip of that figure"
        )
    starts = np.cumsum([1, *(1 + sizes[name] for name in layout)])
    frames = _frames(path, words[first:], layout, starts)
    clip = {}
    for name, start in zip(layout, starts):
        try:
            clip[name] = frames[:, start + 1 : start + 1 + sizes[name]].astype(np.float64)
        except ValueError as error:
            raise DataError(f"{path}: bone {name!r}: {error}; fetch the file again") from None
        if not (np.abs(clip[name]) <= fields.LARGEST).all():
            raise DataError(f"{path}: bone {name!r} has numbers that are not finite or too large; fetch the file again")
    return clip


def _is_number(word: str) -> bool:
    """Whether a word is the number of a frame."""
    return word.isascii() and word.isdigit() and len(word) < 10


def _layout(words: list[str], limit: int) -> list[str]:
    """Names of the bones of the first frame, in order."""
    names = []
    for word in words:
        if word[0].isalpha() and word.lower() not in ("nan", "inf"):
            names.append(word)
        elif _is_number(word) and len(names) >= limit:
            break
    return names


def _frames(path: str | pathlib.Path, words: list[str], layout: list[str], starts: np.ndarray) -> np.ndarray:
    """[T, words of a frame] str: every frame says the same bones in the same order."""
    stride = int(starts[-1])
    whole = len(words) // stride
    frames = np.array(words[: whole * stride]).reshape(whole, stride)
    expected = np.array(layout)
    good = (frames[:, starts[:-1]] == expected).all(-1)
    number = int(words[0])
    good &= frames[:, 0] == np.arange(number, number + whole).astype(str)
    if not good.all() or len(words) != whole * stride or not whole:
        bad = int(np.argmin(good)) if not good.all() else whole
        raise DataError(
            f"{path}: frame {number + bad} is not like the first one: expected its number and {len(layout)} bones with "
            f"{stride - 1 - len(layout)} numbers; the file is damaged or cut off. Fetch it again."
        )
    return frames
