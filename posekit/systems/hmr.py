"""Human mesh recovery, as a whole: options, model, data, training, evaluation, prediction, pictures.

    python tools/create_dataset.py --lsp --lsp_val --lsp_ext
    python -m posekit.train --num_epochs=120
    python -m posekit.validate --run_dir=logs/...

The original reports, after 120 epochs on LSP and LSP-extended with the critic and both losses, a keypoint
reprojection loss of 3.20 and a mesh reprojection loss of 30.02 on the LSP validation images.
"""

import dataclasses
import datetime
import sys

import keras
import numpy as np

from posekit.bodies import load_body, load_faces, load_mean_theta
from posekit.data import pipeline
from posekit.drawing import MeshRenderer, draw_people, draw_text, plot_pck, stage_grid, uncrop
from posekit.geometry.cameras import ndc_to_px, orthographic_projection
from posekit.geometry.crops import person_crop
from posekit.losses import keypoint_reprojection_loss
from posekit.metrics import distance_curve, mpjpe, pck, procrustes_mpjpe, reference_size
from posekit.models import HMR, Critic
from posekit.ops.mesh_reprojection import mesh_reprojection
from posekit.results import People
from posekit.skeletons import COCO_PLUS19, LSP14
from posekit.systems.evaluation import Evaluation
from posekit.training.config import Options, option
from posekit.training.fused_adam import FusedAdam
from posekit.training.gan import HMRTrainer
from posekit.weights import load_model, resolve


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Options of human mesh recovery; defaults are the original's."""

    num_epochs: int = option(125, "epochs to train", lower=1, aliases=("epoch",), training=True)
    batch_size: int = option(8, "images per step", lower=1, upper=65536)
    generator_lr: float = option(1e-4, "learning rate of the regressor", lower=0.0, training=True)
    critic_lr: float = option(5e-4, "learning rate of the critic", lower=0.0, training=True)
    kpr_loss_weight: float = option(60.0, "weight of the keypoint reprojection loss", lower=0.0)
    mr_loss_weight: float = option(0.001, "weight of the mesh reprojection loss", lower=0.0, training=True)
    critic_loss_weight: float = option(0.01, "weight of the critic in the regressor's loss", lower=0.0, training=True)
    loss_3d_weight: float = option(
        0.0, "weight of the 3-D loss, where records carry 3-D labels", lower=0.0, training=True
    )
    use_kpr_loss: bool = option(True, "train with the keypoint reprojection loss", training=True)
    use_mesh_repro_loss: bool = option(False, "train with the mesh reprojection (silhouette) loss", training=True)
    encoder_only: bool = option(False, "train without the critic", training=True)
    use_gradient_penalty: bool = option(True, "train the critic with the gradient penalty", training=True)
    gradient_penalty_mode: str = option(
        "batch_mean",
        "norm of the batch-mean gradient (original) or of each",
        choices=("batch_mean", "per_sample"),
        training=True,
    )
    mesh_normalization: str = option(
        "original",
        "divide the mesh loss by 3 + vertices (original) or by points",
        choices=("original", "points"),
        training=True,
    )
    do_bone_evaluation: bool = option(True, "log total bone lengths of predicted and real bodies", training=True)
    joint_type: str = option(
        "cocoplus", "keypoints that are trained: 19 or 14", choices=("cocoplus", "lsp"), training=True
    )

    data_dir: str = option("data", "folder with the TFRecords")
    datasets: tuple[str, ...] = option(("lsp_train", "lsp_ext"), "training sets", training=True)
    val_datasets: tuple[str, ...] = option(("lsp_val",), "validation sets")
    mocap_datasets: tuple[str, ...] = option(("CMU", "jointLim"), "motion capture for the critic", training=True)
    use_validation: bool = option(True, "validate while training", training=True)
    validation_step_size: int = option(50, "steps between single-batch validations, 0 for none", lower=0, training=True)
    augment_validation: bool = option(False, "augment validation images like training images, as the original does")
    augment: bool = option(True, "augment training images", training=True)
    trans_max: int = option(20, "largest jitter of the crop centre, px", lower=0)
    scale_min: float = option(0.8, "smallest scale factor", lower=0.05)
    scale_max: float = option(1.23, "largest scale factor", upper=20.0)
    silhouette_threshold: float = option(
        0.5, "value in 0..1 above which a silhouette pixel counts; 0 also takes JPEG ringing", lower=0.0, upper=0.99
    )
    shuffle_buffer: int = option(10000, "records among which the next one is drawn", lower=1, training=True)

    image_size: int = option(224, "side of the crop", lower=32, upper=2048, aliases=("img_size",), architecture=True)
    num_stages: int = option(3, "regression stages", lower=1, upper=32, aliases=("num_stage",), architecture=True)
    backbone: str = option("resnet50", "image encoder, any of keras.applications", architecture=True)
    backbone_weights: str = option(
        "imagenet", "initial encoder weights: imagenet, none, a file, an hmr run, or a name", training=True
    )
    backbone_preprocessing: str = option(
        "original", "images in [-1, 1] (original) or as the weights expect them", choices=("original", "imagenet"),
        architecture=True,
    )  # fmt: skip
    batch_norm_momentum: float = option(
        0.0,
        "momentum of the encoder's batch normalisation, 0: its own; short runs need 0.99",
        lower=0.0,
        upper=0.9999,
        training=True,
    )
    freeze_backbone: bool = option(False, "do not train the encoder", training=True)
    dropout: float = option(0.5, "dropout of the last regression stage", lower=0.0, upper=0.95, training=True)
    body: str = option("", "body model .npz, or 'sample'; searched for where empty", aliases=("smpl_model_path",))
    faces: str = option("", ".npy with triangles that replace the body's", aliases=("smpl_face_path",))
    mean_params: str = option("", ".h5 or .npz with the mean pose and shape", aliases=("smpl_mean_path",))
    data_format: str = option("NHWC", "accepted for the original's command lines", choices=("NHWC",))

    mixed_precision: bool = option(False, "compute in half precision", training=True)
    strategy: str = option("none", "distribution over devices", choices=("none", "mirrored"), training=True)
    seed: int = option(0, "seed of everything random", lower=0)
    checkpoint_every: int = option(1, "epochs between checkpoints", lower=1, training=True)
    log_img_step: int = option(1000, "steps between pictures in TensorBoard, 0 for none", lower=0, training=True)
    debug_numerics: bool = option(False, "stop at the first NaN or infinity and name the operation", training=True)
    run_eagerly: bool = option(False, "run step by step in Python, for a debugger", aliases=("debug",), training=True)

    def __post_init__(self):
        super().__post_init__()
        if self.scale_min > self.scale_max:
            raise ValueError(f"--scale_min={self.scale_min} is larger than --scale_max={self.scale_max}.")
        if not (self.use_kpr_loss or self.use_mesh_repro_loss or self.loss_3d_weight):
            raise ValueError("Nothing to learn from: set --use_kpr_loss, --use_mesh_repro_loss or --loss_3d_weight.")
        if not self.datasets:
            raise ValueError("--datasets is empty; name at least one set, such as --datasets=lsp_train.")
        if self.use_validation and not self.val_datasets:
            raise ValueError("--val_datasets is empty; name a set, or give --nouse_validation.")
        if not self.encoder_only and not self.mocap_datasets:
            raise ValueError("--mocap_datasets is empty; name a set, or train without the critic: --encoder_only.")


def run_name(config):
    """Names a run folder after its options, as the original does.

    Args:
        config: `Config`.

    Returns:
        Folder name, ending in the date and time.
    """
    parts = [f"HMR_T{config.num_stages}", f"{config.num_epochs}e", *config.datasets]
    if not config.encoder_only:
        parts += [*config.mocap_datasets, f"Dlr{config.critic_lr:g}", f"d{config.critic_loss_weight:g}"]
    parts.append(f"Elr{config.generator_lr:g}")
    if config.use_kpr_loss:
        parts.append(f"kp{config.kpr_loss_weight:g}")
    if config.use_mesh_repro_loss:
        parts.append(f"mr{config.mr_loss_weight:g}")
    parts += [f"trans{config.trans_max}", f"sc{config.scale_min:g}-{config.scale_max:g}"]
    return "_".join(parts) + datetime.datetime.now().strftime("_%b%d_%H%M%S")


def complete(config):
    """Fills in options that depend on the training data; there are none here.

    Args:
        config: `Config`.

    Returns:
        The same `Config`.
    """
    return config


def build_model(config, pretrained=True):
    """Builds the regressor.

    Args:
        config: `Config`.
        pretrained: Whether to start from `config.backbone_weights`; False where weights are loaded afterwards.

    Returns:
        `HMR`.
    """
    body = load_body(config.body or None)
    if config.faces:
        body = dataclasses.replace(body, faces=load_faces(config.faces, body.num_vertices))
    wanted = config.backbone_weights if pretrained else "none"
    # Weights of a whole hmr model, by name or run folder, lend their encoder.
    lender = None if wanted in ("imagenet", "none") or wanted.endswith(".h5") else resolve(wanted, "hmr")
    model = HMR(
        body=body,
        backbone=config.backbone,
        backbone_weights=None if wanted == "none" or lender else wanted,
        image_size=config.image_size,
        num_stages=config.num_stages,
        dropout=config.dropout,
        mean_theta=load_mean_theta(config.mean_params or None, body.num_shape),
        backbone_preprocessing=config.backbone_preprocessing,
    )
    if lender:
        _borrow_backbone(model, config, lender)
    model.backbone.trainable = not config.freeze_backbone
    for layer in model.backbone.layers if config.batch_norm_momentum else ():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = config.batch_norm_momentum
    return model


def _borrow_backbone(model, config, lender):
    theirs = Config.from_dict(lender.config)
    for name in ("backbone", "image_size", "backbone_preprocessing"):
        mine, other = getattr(config, name), getattr(theirs, name)
        if str(mine).lower() != str(other).lower():
            raise ValueError(f"--backbone_weights={lender.name} has --{name}={other}, not {mine}; give the same.")
    source = load_model(sys.modules[__name__], theirs.replace(body=config.body), lender)
    model.backbone.set_weights(source.backbone.get_weights())


def build_trainer(config, model):
    """Builds the two-player trainer and compiles it.

    Args:
        config: `Config`.
        model: `HMR` to train.

    Returns:
        Compiled `HMRTrainer`.
    """
    critic = None
    if not config.encoder_only:
        critic = Critic(LSP14.num_joints, model.body.num_shape, num_rotations=model.body.num_joints - 1)
    trainer = HMRTrainer(
        model,
        critic,
        kpr_loss_weight=config.kpr_loss_weight,
        mr_loss_weight=config.mr_loss_weight,
        critic_loss_weight=config.critic_loss_weight,
        loss_3d_weight=config.loss_3d_weight,
        use_kpr_loss=config.use_kpr_loss,
        use_mesh_repro_loss=config.use_mesh_repro_loss,
        use_gradient_penalty=config.use_gradient_penalty,
        gradient_penalty_mode=config.gradient_penalty_mode,
        mesh_normalization=config.mesh_normalization,
        do_bone_evaluation=config.do_bone_evaluation,
        num_keypoints=LSP14.num_joints if config.joint_type == "lsp" else COCO_PLUS19.num_joints,
        seed=config.seed,
    )
    trainer.compile(
        generator_optimizer=FusedAdam(config.generator_lr),
        critic_optimizer=FusedAdam(config.critic_lr),
        run_eagerly=config.run_eagerly,
    )
    return trainer


def steps_per_epoch(config):
    """Number of training steps in an epoch: whole batches, at least one.

    Args:
        config: `Config`.

    Returns:
        The number.
    """
    return pipeline.steps_per_epoch(config.data_dir, config.datasets, config.batch_size)


def train_data(config, epoch, step):
    """Makes the stream of training batches from any point of the run.

    Args:
        config: `Config`.
        epoch: First epoch.
        step: First step in it.

    Returns:
        `tf.data.Dataset`; its order and augmentation depend on seed, epoch and step alone.
    """
    return pipeline.hmr_batches(
        config.data_dir,
        config.datasets,
        config.batch_size,
        num_epochs=config.num_epochs,
        start_epoch=epoch,
        start_step=step,
        mocap_datasets=() if config.encoder_only else config.mocap_datasets,
        mocap_batch_size=config.batch_size * config.num_stages,
        augment=config.augment,
        silhouettes=config.use_mesh_repro_loss,
        **_augmentation(config),
    )


def reading(config):
    """Makes a context in which errors about unreadable records name the file and the record.

    Args:
        config: `Config`.

    Returns:
        Context manager.
    """
    mocap = () if config.encoder_only else config.mocap_datasets
    return pipeline.explain_bad_records(config.data_dir, config.datasets + config.val_datasets, mocap)


def validation_data(config, repeat=False):
    """Makes the validation batches.

    Args:
        config: `Config`.
        repeat: Whether to go round for ever.

    Returns:
        `tf.data.Dataset` with every validation image once, or None without validation.
    """
    if not config.use_validation:
        return None
    data = pipeline.eval_dataset(
        config.data_dir,
        config.val_datasets,
        config.batch_size,
        augment_validation=config.augment_validation,
        **_augmentation(config),
    )
    return data.repeat() if repeat else data


def _augmentation(config):
    return {
        "image_size": config.image_size,
        "seed": config.seed,
        "scale_min": config.scale_min,
        "scale_max": config.scale_max,
        "trans_max": config.trans_max,
        "shuffle_buffer": config.shuffle_buffer,
        "silhouette_threshold": config.silhouette_threshold,
    }


def recording(config, model):
    """Tells the training loop what to record.

    Args:
        config: `Config`.
        model: `HMR` in training.

    Returns:
        Keyword arguments of `RunRecorder`.
    """
    loss = "generator/kpr_loss" if config.use_kpr_loss else "generator/mr_loss"
    arguments = {"monitor": f"val_{loss}" if config.use_validation else loss}
    if config.log_img_step:
        arguments |= {"image_every": config.log_img_step, "draw": _grid_drawer(config, model)}
    if config.use_validation and config.validation_step_size:
        batches = iter(validation_data(config, repeat=True))
        arguments |= {"validate_every": config.validation_step_size, "validation_batches": batches}
    return arguments


def _grid_drawer(config, model):
    """Pictures of the first three and the last three samples of a fixed batch: one row a stage."""
    data = validation_data(config) or train_data(config, 0, 0)
    batch = {name: value.numpy() for name, value in next(iter(data)).items() if name != "mocap"}
    count = len(batch["image"])
    chosen = sorted({*range(min(3, count)), *range(max(0, count - 3), count)})
    renderer = MeshRenderer(model.body.faces, config.image_size)

    def draw():
        outputs = model.predict_on_batch(batch["image"][chosen])
        grids = [_stage_grid(model, renderer, batch, outputs, i, j) for j, i in enumerate(chosen)]
        return np.concatenate(grids, axis=0)

    return draw


def _stage_grid(model, renderer, batch, outputs, sample, row):
    vertices = model.vertices(outputs["theta"][row]).numpy()
    return stage_grid(
        (batch["image"][sample] + 1) / 2,
        vertices,
        outputs["camera"][row],
        outputs["keypoints_ndc"][row],
        renderer,
        true_keypoints=batch["keypoints"][sample],
        silhouette=batch["silhouette"][sample],
    )


def evaluate(config, model, keep=4):
    """Evaluates a model on the validation sets.

    Args:
        config: `Config`.
        model: `HMR`.
        keep: How many of the best and of the worst images stay in memory, to be drawn.

    Returns:
        `Evaluation`. The keypoint loss is the original's: the mean over batches, weighted. The mesh loss is the mean
        over batches of its sum over a batch, unweighted, as the original reports it.
    """
    entries, losses, shown = [], [], {}
    with reading(config):
        for batch in validation_data(config.replace(use_validation=True)):
            outputs = model.predict_on_batch(batch["image"])
            batch = {name: value.numpy() for name, value in batch.items()}
            last = {name: outputs[name][:, -1] for name in ("theta", "camera", "keypoints_ndc", "keypoints3d")}
            losses.append(float(keypoint_reprojection_loss(batch["keypoints"], last["keypoints_ndc"])))
            errors = _errors(config, model, batch, last, outputs["vertices"])
            first = sum(len(entry["filename"]) for entry in entries)
            shown |= {first + i: (batch["image"][i], batch["silhouette"][i]) for i in range(len(batch["image"]))}
            entries.append({name: batch[name] for name in _KEPT} | last | errors)
            shown = {index: shown[index] for index in _extremes(entries, keep)}
    if not entries:
        raise ValueError(f"The validation sets {', '.join(config.val_datasets)} hold no image.")
    loss = float(np.average(losses, weights=[len(entry["filename"]) for entry in entries]))
    samples = {name: np.concatenate([entry[name] for entry in entries]) for name in entries[0]}
    return _evaluation(config, model, samples, loss, shown)


_KEPT = ("keypoints", "filename", "has_silhouette", "joints3d", "has_joints3d")


def _errors(config, model, batch, last, vertices):
    """Mean pixel distance of each image's visible keypoints, and its mesh loss; NaN where it has none."""
    size = (config.image_size, config.image_size)
    visible = batch["keypoints"][..., 2] > 0
    distance = np.linalg.norm(last["keypoints_ndc"] - batch["keypoints"][..., :2], axis=-1) * 0.5 * config.image_size
    count = visible.sum(-1)
    pixels = np.where(count > 0, (distance * visible).sum(-1) / np.maximum(count, 1), np.nan)
    vertices_px = ndc_to_px(orthographic_projection(vertices, last["camera"]), size)
    to_mesh, to_pixels = mesh_reprojection(batch["silhouette"], vertices_px)
    mesh = (to_mesh + to_pixels).numpy() / (3 + model.body.num_vertices)
    return {"pixel_error": pixels, "mesh_error": np.where(batch["has_silhouette"] > 0, mesh, np.nan)}


def _extremes(entries, keep):
    """Indices of the images with the smallest and the largest errors so far."""
    chosen = set()
    for name in ("pixel_error", "mesh_error"):
        errors = np.concatenate([entry[name] for entry in entries])
        known = np.flatnonzero(np.isfinite(errors))
        order = known[np.argsort(errors[known], kind="stable")]
        chosen |= {*order[:keep].tolist(), *order[::-1][:keep].tolist()}
    return chosen


def _evaluation(config, model, samples, keypoint_loss, shown):
    size = config.image_size
    visible = samples["keypoints"][..., 2] > 0
    true_px, pred_px = ((samples[name][..., :2] + 1) * 0.5 * size for name in ("keypoints", "keypoints_ndc"))
    torso = reference_size(true_px, visible, "torso")
    correct, _ = pck(pred_px, true_px, torso, visible, 0.2)
    drawn = np.isfinite(samples["mesh_error"])
    distance = np.linalg.norm(pred_px - true_px, axis=-1)[visible]
    metrics = {
        "kpr_loss": config.kpr_loss_weight * keypoint_loss,
        "mr_loss": float(np.mean(samples["mesh_error"][drawn]) * config.batch_size) if drawn.any() else None,
        "mr_loss_per_image": float(np.mean(samples["mesh_error"][drawn])) if drawn.any() else None,
        "pck_0.2": None if np.isnan(correct) else correct,
        "pixel_error": float(distance.mean()) if visible.any() else None,
        **_errors_3d(samples),
    }
    renderer = MeshRenderer(model.body.faces, size)

    def picture(index):
        image, silhouette = shown[index]
        batch = {"image": image[None], "silhouette": silhouette[None], "keypoints": samples["keypoints"][[index]]}
        outputs = {name: samples[name][[index], None] for name in ("theta", "camera", "keypoints_ndc")}
        return _stage_grid(model, renderer, batch, outputs, 0, 0)

    thresholds, shares, _ = distance_curve(pred_px, true_px, torso, visible)
    return Evaluation(
        metrics,
        {
            "kpr_loss": f"keypoint reprojection loss (x {config.kpr_loss_weight:g})",
            "mr_loss": f"mesh reprojection loss (sum over {config.batch_size} images)",
            "mr_loss_per_image": "mesh reprojection loss, mean of the images",
            "pck_0.2": "PCK@0.2 of the torso",
            "pixel_error": f"mean keypoint error, px in the {size} crop",
            "mpjpe_mm": "MPJPE, mm (hips aligned)",
            "pa_mpjpe_mm": "PA-MPJPE, mm (Procrustes)",
        },
        {"keypoints": (samples["pixel_error"], "px")}
        | ({"mesh": (samples["mesh_error"], "mesh loss")} if drawn.any() else {}),
        [name.decode() for name in samples["filename"]],
        picture,
        {"pck.png": lambda path: plot_pck({"all keypoints": (thresholds, shares)}, path)},
    )


def _errors_3d(samples):
    known = samples["has_joints3d"] > 0
    if not known.any():
        return {"mpjpe_mm": None, "pa_mpjpe_mm": None}
    pred, true = samples["keypoints3d"][known][:, : LSP14.num_joints], samples["joints3d"][known]
    hips = [LSP14.index("left_hip"), LSP14.index("right_hip")]
    return {
        "mpjpe_mm": float(np.mean(mpjpe(pred, true, root=hips))) * 1000,
        "pa_mpjpe_mm": float(np.mean(procrustes_mpjpe(pred, true))) * 1000,
    }


def predict(config, model, images, boxes):
    """Predicts body meshes.

    Args:
        config: `Config`.
        model: `HMR`.
        images: List of uint8 `[height, width, 3]` RGB pictures.
        boxes: For each picture `[people, 4]` boxes x_min, y_min, x_max, y_max in pixels, or None for the whole
            picture as one person.

    Returns:
        List of `People`, one a picture.
    """
    owners, crops, cut = [], [], []
    for index, (image, these) in enumerate(zip(images, boxes)):
        for box in [None] if these is None else np.asarray(these, np.float64).reshape(-1, 4):
            pixels, crop = person_crop(image, box=box, size=config.image_size)
            owners.append(index)
            crops.append(pixels)
            cut.append(crop)
    outputs = _predict_crops(config, model, crops)
    return [
        _people(config, model, image, cut, outputs, [i for i, owner in enumerate(owners) if owner == index])
        for index, image in enumerate(images)
    ]


def _predict_crops(config, model, crops):
    if not crops:
        return _outputs_of_nobody(model.body)
    outputs = []
    for start in range(0, len(crops), config.batch_size):
        batch = np.stack(crops[start : start + config.batch_size]).astype(np.float32) / 127.5 - 1
        outputs.append(model.predict_on_batch(batch))
    last = {name: np.concatenate([output[name][:, -1] for output in outputs])
            for name in ("theta", "camera", "keypoints_ndc", "keypoints3d")}  # fmt: skip
    return last | {"vertices": np.concatenate([output["vertices"] for output in outputs])}


def _outputs_of_nobody(body):
    """What `_predict_crops` gives for no crops: Keras refuses to predict on empty batches."""
    shapes = {
        "theta": (3 + 3 * body.num_joints + body.num_shape,), "camera": (3,), "vertices": (body.num_vertices, 3),
        "keypoints_ndc": (body.num_keypoints, 2), "keypoints3d": (body.num_keypoints, 3),
    }  # fmt: skip
    return {name: np.zeros((0, *shape), np.float32) for name, shape in shapes.items()}


def _people(config, model, image, cut, outputs, rows):
    size, placed = config.image_size, []
    for row in rows:
        joints_px = (outputs["keypoints_ndc"][row] + 1) * 0.5 * size
        placed.append(uncrop(cut[row], outputs["vertices"][row], outputs["camera"][row], joints_px))
    cameras, vertices, joints_px = zip(*placed) if placed else ((), (), ())
    count, body = len(rows), model.body
    keypoints_px = np.reshape(joints_px, (count, body.num_keypoints, 2))
    translations = np.reshape(vertices, (count, body.num_vertices, 3)) - outputs["vertices"][rows]
    return People(
        keypoints_px=keypoints_px,
        scores=np.isfinite(keypoints_px).all(-1).astype(np.float32),
        skeleton=COCO_PLUS19,
        image_size=image.shape[:2],
        vertices=np.reshape(vertices, (count, body.num_vertices, 3)),
        faces=body.faces,
        camera=np.reshape(cameras, (count, 3)),
        theta=outputs["theta"][rows],
        joints3d=outputs["keypoints3d"][rows] + translations[:, :1],
    )


INPUT = "pictures"
VIEWS = ("mesh", "skeleton", "both", "rotated")
KEYS = {view[0]: view for view in VIEWS}


def drawer():
    """Makes the function with which one source is drawn.

    Returns:
        `draw`.
    """
    return draw


def draw(people, image, view="mesh"):
    """Draws predictions in one of the preview's views.

    Args:
        people: `People` of `predict`.
        image: Uint8 `[height, width, 3]` RGB.
        view: `"mesh"` on the image, `"skeleton"`, `"both"` (the mesh beside itself turned by 60 degrees), or
            `"rotated"`.

    Returns:
        Uint8 `[height, width, 3]`, twice as wide for `"both"`. Bodies that are not finite are left out and the
        picture says so.
    """
    if view not in VIEWS:
        raise ValueError(f"view={view!r}: choose one of {', '.join(VIEWS)}.")
    if not np.isfinite(people.keypoints_px).all(-1).any():
        return draw_text(image, {"nothing found": 0})
    if view == "skeleton":
        return draw_people(people, image, mesh=False, skeleton=True)
    turned = None
    if view in ("both", "rotated"):
        turned = np.full_like(image, 255)
        for person in people:
            renderer = MeshRenderer(people.faces)
            turned = renderer.rotated(person.vertices, 60, camera=person.camera, image=turned, do_alpha=False)
        if view == "rotated":
            return turned
    meshes = draw_people(people, image)
    return meshes if turned is None else np.concatenate([meshes, turned], axis=1)
