"""COCO's measures of keypoints of many people: object keypoint similarity, average precision and recall."""

import contextlib
import io

import numpy as np

# COCO's: how far annotators are apart at a joint, as a share of the person's size.
SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107,
    "knee": 0.087, "ankle": 0.089,
}  # fmt: skip
# Of joints that COCO does not have.
OTHER_SIGMA = 0.079
METRICS = {
    "ap": "AP (OKS 0.50 to 0.95)",
    "ap50": "AP at OKS 0.50",
    "ap75": "AP at OKS 0.75",
    "ap_medium": "AP, medium people",
    "ap_large": "AP, large people",
    "ar": "AR (OKS 0.50 to 0.95)",
    "ar50": "AR at OKS 0.50",
    "ar75": "AR at OKS 0.75",
    "ar_medium": "AR, medium people",
    "ar_large": "AR, large people",
}
_PERSON = 1
_MAX_PEOPLE = 20  # of a picture that COCO's measures count, those with the highest scores


def joint_sigmas(joints):
    """How exact each joint can be told, as COCO measures it.

    Args:
        joints: Joint names.

    Returns:
        Float64 `[joints]`; 0.079 for joints that COCO does not have.

    Example:
        >>> joint_sigmas(("nose", "left_hip", "neck")).tolist()
        [0.026, 0.107, 0.079]
    """
    plain = (joint.removeprefix("left_").removeprefix("right_") for joint in joints)
    return np.array([SIGMAS.get(joint, OTHER_SIGMA) for joint in plain])


def keypoint_similarity(predicted, true, labelled, areas, sigmas):
    """Object keypoint similarity of all predicted people with all true ones of a picture.

    Args:
        predicted: `[predicted, joints, 2]` x, y in pixels; joints that are not finite are as far away as can be.
        true: `[true, joints, 2]`.
        labelled: Bool `[true, joints]`; others do not count.
        areas: `[true]` square pixels of each person.
        sigmas: `[joints]`, see `joint_sigmas`.

    Returns:
        Float64 `[predicted, true]`, 1 where all joints are at their places; NaN for people without labelled joints.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> person = np.arange(34.0).reshape(1, 17, 2)
        >>> keypoint_similarity(person, person, np.ones((1, 17), bool), [100.0], np.full(17, 0.05))
        array([[1.]])

    Reference:
        https://cocodataset.org/#keypoints-eval
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    labelled, areas, sigmas = np.asarray(labelled, bool), np.asarray(areas, np.float64), np.asarray(sigmas, np.float64)
    shape = true.shape
    if (
        true.ndim != 3 or predicted.ndim != 3 or predicted.shape[1:] != shape[1:] or shape[-1] != 2
        or labelled.shape != shape[:2] or areas.shape != shape[:1] or sigmas.shape != shape[1:2]
    ):  # fmt: skip
        raise ValueError(
            f"Joints of shapes {predicted.shape} and {true.shape}, labels of {labelled.shape}, areas of {areas.shape} "
            f"and sigmas of {sigmas.shape} do not fit: [predicted, joints, 2], [true, joints, 2], [true, joints], "
            "[true] and [joints]."
        )
    squares = ((predicted[:, None] - true) ** 2).sum(-1)
    variance = (2 * sigmas) ** 2
    exponent = squares / variance / (2 * np.maximum(areas, np.spacing(1.0))[:, None])
    similarity = np.where(np.isfinite(exponent), np.exp(-np.where(np.isfinite(exponent), exponent, 0)), 0.0)
    count = labelled.sum(-1)
    with np.errstate(invalid="ignore"):
        return np.where(labelled, similarity, 0.0).sum(-1) / np.where(count > 0, count, np.nan)


def coco_truth(pictures, joints):
    """True people in COCO's format.

    Args:
        pictures: Iterable of dicts: `"image_id"`, `"height"`, `"width"`, `"joints"` `[people, joints, 3]` (x, y; 0 not
            labelled, 1 hidden, 2 visible), `"boxes"` `[people, 4]` x, y, width, height, `"areas"` `[people]`,
            `"crowd"` `[people]`.
        joints: Joint names.

    Returns:
        Dict as of a `person_keypoints_….json`.
    """
    images, annotations = [], []
    for picture in pictures:
        images.append({"id": int(picture["image_id"]), **{side: int(picture[side]) for side in ("height", "width")}})
        for keypoints, box, area, crowd in zip(*(picture[key] for key in ("joints", "boxes", "areas", "crowd"))):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": int(picture["image_id"]),
                    "category_id": _PERSON,
                    "keypoints": np.asarray(keypoints, float).ravel().tolist(),
                    "num_keypoints": int((np.asarray(keypoints)[..., 2] > 0).sum()),
                    "bbox": np.asarray(box, float).tolist(),
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    category = {"id": _PERSON, "name": "person", "keypoints": list(joints), "skeleton": []}
    return {"images": images, "annotations": annotations, "categories": [category]}


def coco_results(image_id, keypoints_px, scores, person_scores):
    """Predicted people of a picture in COCO's format of results.

    Args:
        image_id: Number of the picture.
        keypoints_px: `[people, joints, 2]` x, y in pixels; not finite where a joint was not found.
        scores: `[people, joints]`.
        person_scores: `[people]`, by which people are ranked.

    Returns:
        List of dicts, one a person; joints that were not found are 0, 0, 0.
    """
    found = np.isfinite(keypoints_px).all(-1) & np.isfinite(scores) & (np.asarray(scores) > 0)
    triples = np.where(found[..., None], np.concatenate([keypoints_px, np.asarray(scores)[..., None]], -1), 0.0)
    return [
        {
            "image_id": int(image_id),
            "category_id": _PERSON,
            "keypoints": [round(float(value), 3) for value in person.ravel()],
            "score": float(score),
        }
        for person, score in zip(triples, person_scores)
    ]


def average_precision(truth, results, sigmas=None):
    """COCO's ten figures, computed by pycocotools.

    Args:
        truth: Dict of `coco_truth`.
        results: List of dicts of `coco_results`, of all pictures.
        sigmas: `[joints]`, see `joint_sigmas`; by default of the joints that `truth` names.

    Returns:
        Dict with the keys of `METRICS`; None where there is nobody to find.

    Raises:
        ValueError: If a result is of a picture that is not there, or has another number of joints.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    joints = truth["categories"][0]["keypoints"]
    known = {image["id"] for image in truth["images"]}
    for result in results:
        if result["image_id"] not in known or len(result["keypoints"]) != 3 * len(joints):
            raise ValueError(
                f"A result is of picture {result['image_id']} and has {len(result['keypoints'])} numbers; the truth "
                f"has {len(known)} pictures, {'this one too' if result['image_id'] in known else 'not this one'}, and "
                f"{len(joints)} joints, {3 * len(joints)} numbers, a person."
            )
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        true = COCO()
        true.dataset = {**truth, "annotations": [dict(entry) for entry in truth["annotations"]]}
        true.createIndex()
        found = COCO()
        found.dataset = {**truth, "annotations": _as_annotations(results)}
        found.createIndex()
        evaluation = COCOeval(true, found, "keypoints")
        evaluation.params.kpt_oks_sigmas = joint_sigmas(joints) if sigmas is None else np.asarray(sigmas, np.float64)
        evaluation.params.maxDets = [_MAX_PEOPLE]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {key: float(value) if value >= 0 else None for key, value in zip(METRICS, evaluation.stats)}


def _as_annotations(results):
    """What pycocotools makes of results, who have no size of their own."""
    annotations = []
    for number, result in enumerate(results, 1):
        x, y = np.asarray(result["keypoints"], np.float64).reshape(-1, 3)[:, :2].T
        box = [x.min(), y.min(), np.ptp(x), np.ptp(y)]
        annotations.append({**result, "id": number, "bbox": box, "area": float(np.ptp(x) * np.ptp(y)), "iscrowd": 0})
    return annotations
