"""Runs the CUDA kernels on a GPU and compares them with NumPy: `python tests/ops/cuda_check.py [posekit_cuda.so]`.

Needs CuPy, for the device's memory. Without a path the kernels are compiled first, with nvcc. Every function
`check_<op>(library)` checks one op and gives rows for the table: what ran, how long, and which part of the time the
arithmetic (or the memory) of the GPU would take at its best.
"""

import ctypes
import functools
import importlib
import os
import pathlib
import sys

import cupy
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

# Additions or multiplications of one processor in a clock cycle, by compute capability; float64 is a half of it.
_LANES = {"80": 64, "86": 128, "89": 128, "90": 128}
# A difference, a square and a sum for each of two coordinates, and the comparison.
_OPERATIONS_PER_PAIR = 6


def pointer(array):
    """Address of a device array, for ctypes."""
    return ctypes.c_void_p(array.data.ptr)


def call(function, *arguments, scratch=False):
    """Calls a kernel's function with arrays and integers on the current stream; an error code is an exception.

    Functions that need memory of their own (`scratch`) take it from the device's pool.
    """
    stream = cupy.cuda.get_current_stream().ptr
    passed = [ctypes.c_int64(value) if isinstance(value, int) else value for value in arguments]
    passed = [value if isinstance(value, ctypes._SimpleCData) else pointer(value) for value in passed]
    code = function(*passed, ctypes.c_void_p(stream), *([ctypes.c_void_p(None)] if scratch else []))
    if code:
        raise RuntimeError(f"{function.__name__} ended with CUDA error {code}")


def milliseconds(run, repeats=20):
    """Median time of `run` on the device."""
    run()
    times = []
    for _ in range(repeats):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, stop))
    return float(np.median(times))


def row(what, run, operations=0, byte_count=0):
    """Times `run`; the bound is the longer of its arithmetic and its memory traffic at the GPU's best."""
    device = cupy.cuda.Device()
    attributes = device.attributes
    lanes = _LANES.get(device.compute_capability, 128)
    arithmetic = operations / (attributes["MultiProcessorCount"] * lanes * attributes["ClockRate"])
    memory = byte_count / (2 * attributes["MemoryClockRate"] * attributes["GlobalMemoryBusWidth"] / 8)
    time = milliseconds(run)
    return {"what": what, "ms": time, "of the bound": max(arithmetic, memory) / time}


def _nearest(points, references):
    """The first nearest reference of every point, with the kernel's own rounding."""
    squared = np.zeros((len(points), len(references)), points.dtype)
    for axis in range(points.shape[1]):
        squared += (points[:, None, axis] - references[None, :, axis]) ** 2
    return squared.argmin(1)


def _splits(sizes):
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def check_nearest_neighbors(library, timed=True):
    """Ragged batches, ties, points that are not finite, empty rows."""
    rng = np.random.default_rng(0)
    rows = []
    for dtype, suffix in ((np.float32, "f32"), (np.float64, "f64")):
        function = getattr(library, f"posekit_cuda_nearest_neighbors_{suffix}")

        def run(points, point_splits, references, reference_splits, most, most_references, function=function):
            indices = cupy.zeros(len(points), np.int32)
            distances = cupy.zeros(len(points), points.dtype)
            call(
                function, points, point_splits, references, reference_splits, len(point_splits) - 1,
                points.shape[1], len(points), most, most_references, indices, distances, scratch=True,
            )  # fmt: skip
            return indices, distances

        for dims in (1, 2, 3, 7):
            for sizes, other_sizes in (([1], [1]), ([1500, 0, 3, 40], [700, 5, 0, 2300]), ([30], [5000])):
                for whole in (False, True):
                    points, references = (rng.normal(0, 9, (sum(s), dims)).astype(dtype) for s in (sizes, other_sizes))
                    if whole:
                        points, references = points.round(), references.round()
                    elif len(points) > 1000:
                        points[3, 0], references[5, 0] = np.nan, np.inf
                    splits, other_splits = _splits(sizes), _splits(other_sizes)
                    arrays = (cupy.asarray(a) for a in (points, splits, references, other_splits))
                    found = run(*arrays, max(sizes), max(other_sizes))
                    indices, distances = (cupy.asnumpy(array) for array in found)
                    finite = [np.where(np.isfinite(a), a, dtype(1e18)) for a in (points, references)]
                    for b in range(len(sizes)):
                        own, other = slice(*splits[b : b + 2]), slice(*other_splits[b : b + 2])
                        if not other_sizes[b]:
                            assert (indices[own] == -1).all() and np.isinf(distances[own]).all()
                        elif sizes[b]:
                            expected = _nearest(finite[0][own], finite[1][other])
                            np.testing.assert_array_equal(indices[own], expected)
                            lengths = np.linalg.norm(points[own] - references[other][expected], axis=1)
                            np.testing.assert_allclose(distances[own], lengths, rtol=1e-6)
        if timed:
            for dims in (2, 3):
                count = 100_000
                sets = [cupy.asarray(rng.uniform(0, 100, (count, dims)).astype(dtype)) for _ in range(2)]
                splits = cupy.asarray(_splits([count]))
                operations = count**2 * (3 * dims) * (1 if dtype == np.float32 else 2)
                work = functools.partial(run, sets[0], splits, sets[1], splits, count, count)
                rows.append(row(f"nearest_neighbors {suffix}, {dims}-D, 1e5 x 1e5", work, operations))
    return rows


def _mesh_loop(silhouettes, vertices):
    """Both sums of every image and the gradient of their total."""
    vertices = vertices.astype(np.float64)
    to_mesh, to_pixels, gradient = np.zeros(len(vertices)), np.zeros(len(vertices)), np.zeros(vertices.shape)
    for image, (silhouette, points) in enumerate(zip(silhouettes, vertices)):
        pixels = np.argwhere(silhouette)[:, ::-1].astype(np.float64)
        if not len(pixels):
            continue
        chosen = _nearest(pixels, points)
        to_mesh[image] = np.abs(points[chosen] - pixels).sum()
        np.add.at(gradient[image], chosen, np.sign(points[chosen] - pixels))
        apart = points - pixels[_nearest(points, pixels)]
        lengths = np.linalg.norm(apart, axis=1, keepdims=True)
        to_pixels[image] = lengths.sum()
        gradient[image] += np.divide(apart, lengths, out=np.zeros_like(apart), where=lengths > 0)
    return to_mesh, to_pixels, gradient


def check_mesh_reprojection(library, timed=True):
    """Sums, pairs and gradient; empty silhouettes, images of any form."""
    rng = np.random.default_rng(1)
    rows = []
    for dtype, suffix in ((np.float32, "f32"), (np.float64, "f64")):

        def run(silhouettes, vertices, backward=True, suffix=suffix):
            batch, height, width = silhouettes.shape
            per_image, dtype = vertices.shape[1], vertices.dtype
            sums = [cupy.zeros(batch, dtype) for _ in range(2)]
            begins, splits = cupy.zeros(batch * height, np.int64), cupy.zeros(batch + 1, np.int64)
            call(library.posekit_cuda_count_pixels, silhouettes, batch, height, width, begins, splits)
            counts = np.diff(cupy.asnumpy(splits))
            total, most = int(counts.sum()), int(counts.max())
            nearest_vertex, nearest_pixel = cupy.zeros(total, np.int32), cupy.zeros((batch, per_image), np.int32)
            sizes = batch, height, width, per_image
            call(
                getattr(library, f"posekit_cuda_mesh_reprojection_{suffix}"), silhouettes, vertices, *sizes, begins,
                splits, total, most, *sums, nearest_vertex, nearest_pixel, scratch=True,
            )  # fmt: skip
            gradient, ones = cupy.zeros(vertices.shape, dtype), cupy.ones(batch, dtype)
            if backward:
                call(
                    getattr(library, f"posekit_cuda_mesh_reprojection_gradient_{suffix}"), silhouettes, vertices,
                    *sizes, begins, total, nearest_vertex, nearest_pixel, ones, ones, gradient, scratch=True,
                )  # fmt: skip
            return *sums, gradient

        for height, width, per_image in ((24, 24, 70), (1, 1, 1), (37, 300, 900), (5, 3, 1500)):
            silhouettes = (rng.random((3, height, width)) < [[[0.3]], [[0]], [[0.9]]]).astype(np.uint8)
            vertices = rng.uniform(-5, width + 5, (3, per_image, 2)).astype(dtype)
            found = run(cupy.asarray(silhouettes), cupy.asarray(vertices))
            for ours, truth in zip(found, _mesh_loop(silhouettes, vertices)):
                rtol = 1e-5 if dtype == np.float32 else 1e-12
                np.testing.assert_allclose(cupy.asnumpy(ours), truth, rtol=rtol, atol=10 * rtol)
        if timed:
            y, x = np.mgrid[:224, :224]
            silhouettes = np.repeat(((np.hypot((x - 112) * 2.2, y - 112) < 76.5)[None]).astype(np.uint8), 8, 0)
            vertices = rng.normal(112, 1, (8, 6890, 2)) + rng.uniform(-1, 1, (8, 6890, 2)) * [35, 77]
            arrays = cupy.asarray(silhouettes), cupy.asarray(vertices.astype(dtype))
            pairs = 2 * int(silhouettes.sum()) * 6890
            operations = pairs * _OPERATIONS_PER_PAIR * (1 if dtype == np.float32 else 2)
            what = f"mesh_reprojection {suffix}, 8 x 224 x 224, {silhouettes.sum()} pixels, 6890 vertices, both ways"
            rows.append(row(what, functools.partial(run, *arrays), operations))
    return rows


_PEAK = np.dtype(
    [("joint", "i4"), ("row", "i4"), ("column", "i4"), ("unused", "i4"), ("x", "f8"), ("y", "f8"), ("score", "f8")]
)


def _people_on_gpu(library, heatmaps, pafs, mode, times, size, most=20000):
    """Peaks `[peaks, 5]` and people of every image: peaks and limbs from the GPU, put together by NumPy."""
    module = importlib.import_module("posekit.ops.decode_paf")
    skeleton, (gaussian, profiles) = module.OPENPOSE18, module._kernels()
    batch, height, width = heatmaps.shape[:3]
    maps = [cupy.asarray(part) for part in (heatmaps, pafs)]
    strides = [(ctypes.c_int64 * 4)(*(stride // 4 for stride in part.strides)) for part in maps]
    found, counts = cupy.zeros((batch, most * _PEAK.itemsize), np.uint8), cupy.zeros(batch, np.int32)
    code = module.MODES.index(mode)
    host = [ctypes.c_void_p(part.ctypes.data) for part in (gaussian, profiles[mode])]
    call(
        library.posekit_cuda_paf_peaks, maps[0], ctypes.c_void_p(ctypes.addressof(strides[0])), batch,
        skeleton.num_joints, height, width, code, times, *size, *host,
        ctypes.c_double(module.PEAK_THRESHOLDS[mode]), most, found, counts,
    )  # fmt: skip
    counts, found = cupy.asnumpy(counts), cupy.asnumpy(found).view(_PEAK)
    assert counts.max(initial=0) <= most
    peaks, groups, offsets, total = [], [], [0], 0
    for image in range(batch):
        some = np.sort(found[image, : counts[image]], order=["joint", "row", "column"])
        columns = [some["joint"], some["x"], some["y"], some["score"], np.arange(len(some))]
        peaks.append(np.stack(columns, axis=-1).astype(np.float64))
        ends = np.searchsorted(some["joint"], np.arange(skeleton.num_joints + 1))
        for limb in skeleton.limb_grouping:
            first = [int(ends[joint]) for joint in skeleton.limbs[limb]]
            sizes = [int(ends[joint + 1] - ends[joint]) for joint in skeleton.limbs[limb]]
            groups.append([image, limb, *(total + start for start in first), *sizes])
            offsets.append(offsets[-1] + sizes[0] * sizes[1])
        total += len(some)
    places = cupy.asarray(np.ascontiguousarray(np.concatenate(peaks)[:, 1:3]))
    groups, scores = np.array(groups, np.int64), cupy.zeros(max(1, offsets[-1]), np.float64)
    call(
        library.posekit_cuda_paf_limbs, maps[1], ctypes.c_void_p(ctypes.addressof(strides[1])), height, width, code,
        times, *size, ctypes.c_double(0.05), places, cupy.asarray(groups), cupy.asarray(np.array(offsets, np.int64)),
        len(groups), int((groups[:, 4] * groups[:, 5]).max()), scores,
    )  # fmt: skip
    scores, people, steps = cupy.asnumpy(scores), [], len(skeleton.limb_grouping)
    for image in range(batch):
        connections, total = [], sum(map(len, peaks[:image]))
        for group in range(image * steps, (image + 1) * steps):
            _, _, start, end, starts, ends = groups[group].tolist()
            table = scores[offsets[group] : offsets[group + 1]].reshape(starts, ends)
            one, other = np.nonzero(table)
            order = np.argsort(-table[one, other], kind="stable")
            pairs = [part[order].tolist() for part in (one, other, table[one, other])]
            best = module._best_first(*pairs, min(starts, ends))
            limbs = [(start - total + first, end - total + second, score) for first, second, score in best]
            connections.append(np.array(limbs, np.float64).reshape(-1, 3))
        limits = {"min_parts": 4, "min_score": module.MIN_SCORES[mode]}
        people.append(module.group_people(connections, peaks[image], skeleton, **limits))
    return peaks, people


def _people_maps(rng, cells, count):
    """Heatmaps and fields of people, at random places, and some noise: float32."""
    from posekit.skeletons import OPENPOSE18

    row, column = np.mgrid[: cells[0], : cells[1]]
    heatmaps, pafs = np.zeros((*cells, 19)), np.zeros((*cells, 38))
    for _ in range(count):
        joints = rng.uniform(0, 1, 2) * cells[::-1] + rng.normal(0, 4, (18, 2))
        for joint, (x, y) in enumerate(joints):
            heatmaps[..., joint] += np.exp(-((column - x) ** 2 + (row - y) ** 2) / 1.5)
        for limb, (start, end) in enumerate(OPENPOSE18.limbs):
            step = joints[end] - joints[start]
            step /= np.linalg.norm(step)
            along, aside = ((column - joints[start, 0]) * step[i] + (row - joints[start, 1]) * s * step[1 - i]
                            for i, s in ((0, 1), (1, -1)))  # fmt: skip
            inside = (abs(aside) < 1.2) & (along > -1) & (along < np.linalg.norm(joints[end] - joints[start]) + 1)
            pafs[inside, 2 * limb : 2 * limb + 2] = step
    maps = np.minimum(heatmaps, 1), pafs
    return [(part + rng.normal(0, 0.02, part.shape)).astype(np.float32) for part in maps]


def check_decode_paf(library, timed=True):
    """Peaks, limbs and people of all modes; the exact one to the last bit."""
    module = importlib.import_module("posekit.ops.decode_paf")
    os.environ["POSEKIT_NATIVE"] = "0"
    rng, rows = np.random.default_rng(2), []
    sizes = (((7, 9), 1), ((1, 1), 0), ((12, 23), 3), ((30, 41), 8))
    for mode, times in (("exact", 8), ("exact", 1), ("fast", 2), ("tf_pose", 4)):
        for cells, count in sizes:
            images = [_people_maps(rng, cells, people) for people in (count, 2 * count)]
            heatmaps, pafs = (np.stack(part) for part in zip(*images))
            size, options = [times * side for side in cells], {}
            if mode == "exact" and times == 8:
                size = [max(1, side - 3) for side in size]
                options = {"upsampling": 8, "size": size}
            expected = module.decode_paf(heatmaps, pafs, mode=mode, **options)
            peaks, people = _people_on_gpu(library, heatmaps, pafs, mode, times, size)
            tolerance = {"rtol": 0, "atol": 0} if mode == "exact" else {"rtol": 1e-5, "atol": 1e-5}
            assert count < 8 or all(map(len, people))
            for image, decoded in enumerate(expected):
                np.testing.assert_allclose(peaks[image], decoded.peaks, **tolerance)
                np.testing.assert_allclose(people[image], decoded.subset, **tolerance)
    total = cupy.zeros(1, np.uint64)
    values = rng.normal(size=(300, 41)).astype(np.float32)
    values[5, :7], values[299, 40] = np.nan, np.inf
    call(library.posekit_cuda_paf_not_finite, cupy.asarray(values), values.size, total)
    assert int(total[0]) == 8
    if timed:
        cells = 46, 82
        heatmaps = np.stack(8 * _people_maps(rng, cells, 20)[:1])
        # A threshold below 0, that everything is smoothed with the exact mode: 12 pairs and 25 sums twice, in double
        # precision, which count twice; of the other modes, 7 products and sums twice.
        for mode, times, threshold, each in (("exact", 8, -1, 2 * 74), ("fast", 2, 0.1, 28), ("tf_pose", 4, 0.05, 28)):
            run = _peaks_timed(library, heatmaps, mode, times, threshold)
            operations = 8 * 18 * cells[0] * cells[1] * times**2 * each
            rows.append(row(f"decode_paf, peaks, {mode}, 8 x 46 x 82 cells, 20 people", run, operations))
    return rows


def _peaks_timed(library, heatmaps, mode, times, threshold):
    module = importlib.import_module("posekit.ops.decode_paf")
    gaussian, profiles = module._kernels()
    maps, most = cupy.asarray(heatmaps), 20000
    strides = (ctypes.c_int64 * 4)(*(stride // 4 for stride in maps.strides))
    found, counts = cupy.zeros((len(maps), most * _PEAK.itemsize), np.uint8), cupy.zeros(len(maps), np.int32)
    host = [ctypes.c_void_p(part.ctypes.data) for part in (gaussian, profiles[mode])]

    def run():
        counts.fill(0)
        call(
            library.posekit_cuda_paf_peaks, maps, ctypes.c_void_p(ctypes.addressof(strides)), len(maps), 18,
            *maps.shape[1:3], module.MODES.index(mode), times, *(times * side for side in maps.shape[1:3]), *host,
            ctypes.c_double(threshold), most, found, counts,
        )  # fmt: skip

    return run


def _layer_loop(rows, kernel, mask, bias, support, max_norm, upstream):
    """Output and gradients of rows, kernel, mask and bias, block by block."""
    joints = len(mask)
    size = kernel.shape[0] // joints, kernel.shape[1] // joints
    norm = np.linalg.norm(kernel)
    scale = min(1.0, max_norm / norm) if max_norm else 1.0
    output, of_rows = np.tile(bias, (len(rows), 1)), np.zeros(rows.shape)
    of_kernel, of_mask = np.zeros(kernel.shape), np.zeros(mask.shape)
    for i, j in np.argwhere(support):
        across, down = (slice(size[0] * i, size[0] * (i + 1)), slice(size[1] * j, size[1] * (j + 1)))
        used = kernel[across, down] * mask[i, j] * scale
        output[:, down] += rows[:, across] @ used
        of_rows[:, across] += upstream[:, down] @ used.T
        product = rows[:, across].T @ upstream[:, down]
        of_kernel[across, down] = product * mask[i, j] * scale
        of_mask[i, j] = scale * (product * kernel[across, down]).sum()
    if max_norm and norm > max_norm:
        of_kernel -= kernel * (upstream * (output - bias)).sum() / norm**2
    return output, of_rows, of_kernel, of_mask, upstream.sum(0)


def check_locally_connected(library, timed=True):
    """Output and gradients, with and without a limit, of any graph and size."""
    rng = np.random.default_rng(3)
    rows = []
    for dtype, suffix in ((np.float32, "f32"), (np.float64, "f64")):
        names = ("", "rows_gradient_", "kernel_gradient_")
        functions = [getattr(library, f"posekit_cuda_locally_connected_{name}{suffix}") for name in names]

        def arrays(batch, joints, size, share):
            shapes = (batch, joints * size[0]), (joints * size[0], joints * size[1]), (joints, joints)
            given = [rng.normal(size=shape) for shape in (*shapes, joints * size[1], (batch, joints * size[1]))]
            return given, rng.random((joints, joints)) < share

        def run(given, support, max_norm, size, functions=functions, dtype=dtype):
            inputs, kernel, mask, bias, upstream = given
            layer = kernel, mask, support, ctypes.c_double(max_norm), len(inputs), len(mask), *size
            output, square, of_rows = cupy.zeros_like(upstream), cupy.zeros(1, np.float64), cupy.zeros_like(inputs)
            of_others = [cupy.zeros_like(part) for part in (kernel, mask, bias)]
            call(functions[0], inputs, bias, *layer, output, square, scratch=True)
            call(functions[1], upstream, square, *layer, of_rows)
            call(functions[2], upstream, square, inputs, bias, output, *layer, *of_others, scratch=True)
            return output, of_rows, *of_others

        cases = ((1, 1, (1, 1)), (3, 4, (5, 2)), (70, 3, (40, 70)), (33, 5, (3, 65)))
        graphs = zip(2 * cases, 2 * (1, 0.5, 0.3, 0.7), (0, 1, 5, 1e9, 0.1, 0, 9, 1))
        for (batch, joints, size), share, max_norm in graphs:
            given, support = arrays(batch, joints, size, share)
            on_gpu = [cupy.asarray(part.astype(dtype)) for part in given]
            found = run(on_gpu, cupy.asarray(support.astype(np.uint8)), max_norm, size)
            truth = _layer_loop(*(given[:4]), support, max_norm, given[4])
            for ours, theirs in zip(found, truth):
                tolerance = (1e-4 if dtype == np.float32 else 1e-11) * max(1, np.abs(theirs).max())
                np.testing.assert_allclose(cupy.asnumpy(ours), theirs, rtol=0, atol=tolerance)
        for batch, share in ((200, 0.2), (200, 0.6), (4096, 0.2), (4096, 0.6)) if timed else ():
            given, support = arrays(batch, 17, (64, 64), share)
            on_gpu = [cupy.asarray(part.astype(dtype)) for part in given]
            work = functools.partial(run, on_gpu, cupy.asarray(support.astype(np.uint8)), 1.0, (64, 64))
            # A fused multiplication and addition takes a cycle of one of the processors that row() counts.
            operations = 3 * batch * int(support.sum()) * 64 * 64 * (1 if dtype == np.float32 else 2)
            what = f"locally_connected {suffix}, batch {batch}, 17 joints, 64 features, {support.sum()} blocks, all"
            rows.append(row(what, work, operations, 4 * given[1].size * given[1].astype(dtype).itemsize))
    return rows


# Steps of critics, as PiecewiseLinear.encode gives them behind the lengths of the lists: kind, index, bias + 1 and
# sources; and how many columns the kernel has.
_INPUT, _DENSE, _LEAKY, _CONCAT, _GRAM = range(5)


def _critic(rng, steps, sizes, gram_shape):
    """Kernels, biases and matrices that fit the steps."""
    widths, kernels, biases = [], {}, {}
    for kind, index, bias, sources, *columns in steps:
        width = sum(widths[source] for source in sources)
        if kind == _INPUT:
            width = sizes[index]
        elif kind == _GRAM:
            width = gram_shape[0] ** 2
        elif kind == _DENSE:
            if index not in kernels:
                kernels[index] = rng.normal(size=(width, columns[0])) / np.sqrt(width)
            width = kernels[index].shape[1]
            if bias:
                biases[bias - 1] = rng.normal(size=width)
        widths.append(width)
    ordered = ([kept[index] for index in sorted(kept)] for kept in (kernels, biases))
    return *ordered, [rng.normal(size=gram_shape)]


def _scores(steps, outputs, slopes, inputs, grams_of, kernels, biases):
    """Summed outputs; `grams_of` are the values of a gram, which count as inputs of their own."""
    values = []
    for kind, index, bias, sources, *_ in steps:
        given = [values[source] for source in sources]
        if kind == _INPUT:
            values.append(inputs[index])
        elif kind == _DENSE:
            values.append(given[0] @ kernels[index] + (biases[bias - 1] if bias else 0))
        elif kind == _LEAKY:
            values.append(np.where(given[0].real > 0, 1, slopes[index]) * given[0])
        elif kind == _CONCAT:
            values.append(np.concatenate(given, axis=1))
        else:
            values.append(grams_of)
    return sum(values[output].sum(axis=1) for output in outputs)


def _penalty_loop(steps, outputs, terms, batch_mean, slopes, points, kernels, *, biases, grams):
    """The penalty, by steps along the imaginary axis, exact to the last bits."""

    def gram(first):
        bones = np.einsum("ij,bja->bia", grams[0], first.reshape(len(first), grams[0].shape[1], -1))
        return np.einsum("bia,bja->bij", bones, bones).reshape(len(first), -1)

    gradients, size = [], 1e-20
    for term in terms:
        kind, index = steps[term][:2]
        source = gram(points[0]) if kind == _GRAM else points[index]
        gradient = np.zeros(source.shape)
        for n in range(source.shape[1]):
            moved = source.astype(complex)
            moved[:, n] += size * 1j
            inputs = [moved if kind == _INPUT and index == i else part for i, part in enumerate(points)]
            of_gram = moved if kind == _GRAM else gram(inputs[0])
            gradient[:, n] = _scores(steps, outputs, slopes, inputs, of_gram, kernels, biases).imag / size
        gradients.append(gradient)
    if batch_mean:
        return sum((1 - np.linalg.norm(gradient.mean(0))) ** 2 for gradient in gradients)
    return np.mean((1 - np.linalg.norm(np.concatenate(gradients, 1), axis=1)) ** 2)


def _penalty_on_gpu(library, suffix, plan, slopes, arrays):
    """Function that computes penalty and gradients of `arrays`: real, fake, coefficients, kernels, biases, grams."""
    real, _, coefficients, kernels, _, grams = arrays
    sizes = np.array([part[0].size for part in real], np.int32)
    each = np.array([factor.size == part.size for factor, part in zip(coefficients, real)], np.int32)
    shapes = [np.array([part.shape for part in parts], np.int32) for parts in (kernels, grams)]
    plan, slopes = np.array(plan, np.int32), np.array(slopes, np.float64)
    of_kernels, penalty = [cupy.zeros_like(kernel) for kernel in kernels], cupy.zeros(1, kernels[0].dtype)
    upstream = cupy.ones(1, kernels[0].dtype)
    lists = [(ctypes.c_void_p * len(part))(*(each.data.ptr for each in part)) for part in (*arrays, of_kernels)]

    def host(array):
        return ctypes.c_void_p(array.ctypes.data)

    def listed(index):
        return ctypes.c_void_p(ctypes.addressof(lists[index]))

    known = host(plan), host(slopes), ctypes.c_int64(len(real[0]))
    size_of_state = library.posekit_cuda_gradient_penalty_state
    size_of_state.restype = ctypes.c_int64
    state = cupy.zeros(size_of_state(known[0], known[2], host(sizes), *map(host, shapes)), kernels[0].dtype)

    def run():
        call(
            getattr(library, f"posekit_cuda_gradient_penalty_{suffix}"), *known, listed(0), listed(1), listed(2),
            host(sizes), host(each), listed(3), host(shapes[0]), listed(4), listed(5), host(shapes[1]), penalty, state,
            scratch=True,
        )  # fmt: skip
        call(
            getattr(library, f"posekit_cuda_gradient_penalty_gradients_{suffix}"), *known, host(sizes), listed(3),
            host(shapes[0]), listed(5), host(shapes[1]), state, upstream, listed(6), scratch=True,
        )  # fmt: skip
        return penalty, of_kernels

    return run


def _hmr_critic():
    """Steps of HMR's critic."""
    steps = [(_INPUT, index, 0, ()) for index in range(3)]
    steps += [(_GRAM, 0, 0, (0,)), (_DENSE, 0, 1, (3,), 100), (_LEAKY, 0, 0, (4,)), (_DENSE, 1, 2, (0,), 100)]
    steps += [(_LEAKY, 0, 0, (6,)), (_CONCAT, 0, 0, (5, 7)), (_DENSE, 2, 3, (8,), 1), (_DENSE, 3, 4, (1,), 10)]
    steps += [(_LEAKY, 1, 0, (10,)), (_DENSE, 4, 5, (11,), 5), (_LEAKY, 1, 0, (12,)), (_DENSE, 5, 6, (13,), 1)]
    steps += [(_DENSE, 6, 7, (2,), 300), (_LEAKY, 0, 0, (15,)), (_DENSE, 7, 8, (16,), 100), (_LEAKY, 0, 0, (17,))]
    return [*steps, (_DENSE, 8, 9, (18,), 1)], [9, 14, 19]


def _small_critic():
    """Steps with a kernel that occurs twice, one without bias, and a step that goes into two others."""
    steps = [(_INPUT, 0, 0, ()), (_INPUT, 1, 0, ()), (_GRAM, 0, 0, (0,)), (_DENSE, 0, 1, (2,), 40)]
    steps += [(_LEAKY, 0, 0, (3,)), (_CONCAT, 0, 0, (4, 3, 0)), (_DENSE, 1, 0, (5,), 33), (_LEAKY, 1, 0, (6,))]
    steps += [(_DENSE, 2, 2, (7,), 1), (_DENSE, 3, 3, (1,), 9), (_LEAKY, 0, 0, (9,)), (_DENSE, 4, 4, (10,), 9)]
    return [*steps, (_LEAKY, 1, 0, (11,)), (_DENSE, 4, 4, (12,), 9)], [8, 13]


def check_gradient_penalty(library, timed=True):
    """Values, and derivatives along random directions of the kernels, in both modes."""
    rng = np.random.default_rng(4)
    rows, slopes = [], (0.2, 0.0)
    cases = [(_small_critic(), (15, 6), (4, 5), batch) for batch in (1, 3, 40)]
    cases += [(_hmr_critic(), (42, 10, 207), (13, 14), 24)] if timed else []
    for (steps, outputs), sizes, gram_shape, batch in cases:
        kernels, biases, grams = _critic(rng, steps, sizes, gram_shape)
        real, fake = ([rng.normal(size=(batch, size)) for size in sizes] for _ in range(2))
        for batch_mean in (1, 0):
            terms = [index for index, step in enumerate(steps) if step[0] == _INPUT or step[0] == _GRAM and batch_mean]
            factors = [rng.random((batch, size if batch_mean else 1)) for size in sizes]
            plan = [len(sizes), len(kernels), len(biases), len(grams), batch_mean, len(steps)]
            for kind, index, bias, sources, *_ in steps:
                plan += [kind, index, bias, len(sources), *sources]
            plan += [len(outputs), *outputs, len(terms), *terms]
            for dtype, suffix in ((np.float32, "f32"), (np.float64, "f64")):
                lists = real, fake, factors, kernels, biases, grams
                arrays = [[cupy.asarray(part.astype(dtype)) for part in parts] for parts in lists]
                run = _penalty_on_gpu(library, suffix, plan, slopes, arrays)
                if len(sizes) == 3:
                    operations = 5 * batch * sum(kernel.size for kernel in kernels) * (1 if dtype == np.float32 else 2)
                    mode = "batch_mean" if batch_mean else "per_sample"
                    rows.append(row(f"gradient_penalty {suffix}, HMR's critic, 24 samples, {mode}", run, operations))
                    continue
                penalty, of_kernels = run()
                points = [f + c * (r - f) for r, f, c in zip(real, fake, factors)]

                known = steps, outputs, terms, batch_mean, slopes, points
                value = functools.partial(_penalty_loop, *known, biases=biases, grams=grams)
                tolerance = 1e-4 if dtype == np.float32 else 1e-10
                np.testing.assert_allclose(cupy.asnumpy(penalty)[0], value(kernels), rtol=tolerance)
                for index, found in enumerate(of_kernels):
                    direction = rng.normal(size=found.shape)
                    moved = []
                    for step in (-1e-8, 1e-8):  # so small that no rectifier changes sides
                        moved.append([*kernels[:index], kernels[index] + step * direction, *kernels[index + 1 :]])
                    expected = (value(moved[1]) - value(moved[0])) / 2e-8
                    ours = (cupy.asnumpy(found) * direction).sum()
                    assert abs(ours - expected) < max(tolerance, 1e-6) * max(1, abs(expected), value(kernels))
    return rows


def main(arguments):
    """Checks every op; prints the table."""
    if arguments:
        path = arguments[0]
    else:
        from posekit.ops.native import build

        path = build.build_cuda()
    library = ctypes.CDLL(str(path))
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            for done in check(library):
                print(f"{done['what']}: {done['ms']:.3f} ms, {100 * done['of the bound']:.0f} % of the bound")
            print(f"{name.removeprefix('check_')}: equals NumPy")


if __name__ == "__main__":
    main(sys.argv[1:])
