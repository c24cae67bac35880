"""Structure from motion: the points that frames show, and where the frames were taken, through COLMAP.

Everything runs on one CPU thread with a fixed seed, so that the same frames give the same structure.
Source: Schönberger and Frahm, "Structure-from-Motion Revisited", CVPR 2016, by its own library, pycolmap.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np  # before pycolmap: it loads the system's zlib, and with pycolmap's own first Pillow writes no PNG
import pycolmap
import torch
from torch import Tensor
from torch.nn.functional import normalize

from v4s_lib.worlds.cameras import Camera, check_rigid, inverse

CPU = pycolmap.Device.cpu
THREADS = {"num_threads": 1}
RANSAC = {"random_seed": 0}
# COLMAP's defaults are for photographs. Small frames of painted walls have fewer features and less contrast: with the
# defaults the start frame of none of 4 rooms at 416x256 was registered. Our choice, on validation rooms.
FEATURES = THREADS | {"sift": {"peak_threshold": 0.002}}  # default 0.0067
REGISTERED = 12  # matches, at least, that agree on the camera of a frame; default 30
START = {"init_min_num_inliers": 30, "init_min_tri_angle": 8.0}  # of the first two frames; defaults 100 and 16 degrees
MAPPER = {"mapper": START | {"abs_pose_min_num_inliers": REGISTERED}}
MAPPING = THREADS | RANSAC | MAPPER | {"ba_refine_focal_length": False, "ba_refine_extra_params": False}
SIFT = 128  # numbers that describe a feature

pycolmap.logging.minloglevel = 3  # COLMAP reports every step, and as errors what callers are told anyway


@dataclass(frozen=True, eq=False)
class Structure:
    """P points that N frames show, in the axes and the unit of the cameras that were given, or else in COLMAP's own."""

    c2w: Tensor  # float64 (N, 4, 4), OpenCV axes; the identity for a frame that failed
    registered: Tensor  # (N,) which frames did not fail
    points: Tensor  # float64 (P, 3)
    colors: Tensor  # (P, 3) in 0..1, means over the frames that show the point
    descriptors: Tensor  # (P, 128) unit vectors, means over the frames that show the point
    seen: Tensor  # (N, P) which frames show which points

    def in_metres(self, c2w: Tensor) -> "Structure | None":
        """The same, its unit such that its cameras lie as far apart as the true ones, c2w (N, 4, 4).

        A video alone tells no unit. None where fewer than three frames are registered, or where they stand so that no
        similarity brings them to their true places.
        """
        if self.registered.sum() < 3:
            return None
        own, true = (poses[self.registered, :3, 3].double().numpy() for poses in (self.c2w, c2w))
        similarity = pycolmap.estimate_sim3d(own, true)
        if similarity is None:
            return None
        metres, scaled = float(similarity.scale), self.c2w.clone()
        scaled[:, :3, 3] *= metres
        return replace(self, c2w=scaled, points=self.points * metres)


def reconstruct(frames: Tensor, camera: Camera, c2w: Tensor | None = None) -> Structure:
    """What frames of one static scene show; every pair of them is matched.

    Args:
        frames: (N, H, W, 3) in 0..1.
        camera: their intrinsics, which stay as they are.
        c2w: (N, 4, 4) true poses, which stay as they are: points are triangulated, no frame fails. Without them frames
            are registered one after the other, and the part that holds most of them counts.
    """
    check_frames(frames, camera)
    if c2w is not None:
        check_rigid(c2w, "the scan")
        if len(c2w) != len(frames):
            raise ValueError(f"expected a pose a frame, got {len(c2w)} for {len(frames)} frames: match them")
    pycolmap.set_random_seed(0)
    with TemporaryDirectory() as folder:
        pictures, database = Path(folder) / "frames", Path(folder) / "features.db"
        pictures.mkdir()
        for number, frame in enumerate(pixels(frames)):
            pycolmap.Bitmap.from_array(frame).write(pictures / f"{number:06d}.png")
        lens = {"camera_model": "PINHOLE", "camera_params": ",".join(map(str, pinhole(camera).params))}
        pycolmap.extract_features(database, pictures, [], pycolmap.CameraMode.SINGLE, lens, FEATURES, CPU)
        pycolmap.match_exhaustive(database, THREADS, verification_options={"ransac": RANSAC}, device=CPU)
        if c2w is not None:
            model = pycolmap.triangulate_points(_posed(database, c2w), database, pictures, folder, options=MAPPING)
        else:
            models = pycolmap.incremental_mapping(database, pictures, folder, MAPPING).values()
            model = max(models, key=lambda model: model.num_reg_images(), default=pycolmap.Reconstruction())
        return _structure(model, database, len(frames))


def check_frames(frames: Tensor, camera: Camera) -> None:
    """``ValueError`` unless frames are finite, (N, H, W, 3) and of the camera's size."""
    expected = (camera.height, camera.width, 3)
    if frames.dim() != 4 or tuple(frames.shape[1:]) != expected or not torch.isfinite(frames).all():
        raise ValueError(f"expected finite frames (N, {expected}), got {tuple(frames.shape)}: resize them")


def pixels(frames: Tensor) -> np.ndarray:
    """Frames in 0..1 as bytes."""
    return (frames * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def pinhole(camera: Camera) -> pycolmap.Camera:
    """The camera as COLMAP has it; in both, the middle of the first pixel is at (0.5, 0.5)."""
    params = [camera.focal, camera.focal, camera.width / 2, camera.height / 2]
    return pycolmap.Camera(model="PINHOLE", width=camera.width, height=camera.height, params=params)


def _posed(database: Path, c2w: Tensor) -> pycolmap.Reconstruction:
    """A model without points, whose frames stand where they are known to."""
    model = pycolmap.Reconstruction()
    with pycolmap.Database.open(database) as features:
        (camera,) = features.read_all_cameras()
        model.add_camera_with_trivial_rig(camera)
        for image in features.read_all_images():
            w2c = inverse(c2w[_number(image)].double())[:3].numpy()
            frame = pycolmap.Image(image.name, pycolmap.Point2DList(), camera.camera_id, image.image_id)
            model.add_image_with_trivial_frame(frame, pycolmap.Rigid3d(w2c))
    return model


def _structure(model: pycolmap.Reconstruction, database: Path, count: int) -> Structure:
    c2w, registered = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1), torch.zeros(count, dtype=torch.bool)
    for image in model.images.values():
        if image.has_pose:
            c2w[_number(image), :3] = torch.from_numpy(image.cam_from_world().inverse().matrix())
            registered[_number(image)] = True
    with pycolmap.Database.open(database) as features:
        described = {image: features.read_descriptors(image).data.astype(np.float32) for image in model.images}
    points = list(model.points3D.values())
    means = np.zeros((len(points), SIFT), np.float32)
    seen = torch.zeros(count, len(points), dtype=torch.bool)
    for row, point in enumerate(points):
        means[row] = sum(described[element.image_id][element.point2D_idx] for element in point.track.elements)
        seen[[_number(model.images[element.image_id]) for element in point.track.elements], row] = True
    places, colors = (
        torch.tensor(np.array([getattr(point, name) for point in points]).reshape(-1, 3)) for name in ("xyz", "color")
    )
    means = normalize(torch.from_numpy(means), dim=1)
    return Structure(c2w, registered, places.double(), colors.float() / 255, means, seen)


def _number(image: pycolmap.Image) -> int:
    """The frame's number, which is its file's name."""
    return int(Path(image.name).stem)
