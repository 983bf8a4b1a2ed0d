// People in a batch of maps: [batch, max_people, joints, 2] and so on, filled up with nobody.
#include <algorithm>
#include <limits>
#include <numeric>

#include "decode_paf.h"
#include "tf_ops.h"

namespace posekit {
namespace {

PafMaps maps_of(const Tensor& tensor) {
  const int64_t channels = tensor.dim(3), width = tensor.dim(2), height = tensor.dim(1);
  return {tensor.data<float>(), height * width * channels, width * channels, channels, 1};
}

// The best people, in their order.
std::vector<int64_t> chosen(const PafProblem& problem, const PafPeople& image, int64_t most) {
  const int64_t width = problem.joints + 2, count = static_cast<int64_t>(image.people.size()) / width;
  std::vector<int64_t> people(count);
  std::iota(people.begin(), people.end(), 0);
  if (count <= most) return people;
  std::vector<float> scores(count);
  for (int64_t i = 0; i < count; ++i) {
    const double* row = image.people.data() + i * width + problem.joints;
    scores[i] = static_cast<float>(row[0] / row[1]);
  }
  std::sort(people.begin(), people.end(), [&scores](int64_t one, int64_t other) {
    return scores[one] != scores[other] ? scores[one] > scores[other] : one < other;
  });
  people.resize(most);
  std::sort(people.begin(), people.end());
  return people;
}

void decode(Call& call) {
  const Tensor heatmaps = call.input(0), fields = call.input(1), ends = call.input(2), order = call.input(3),
               opens = call.input(4), gaussian = call.input(5), profiles = call.input(6), options = call.input(7);
  if (options.size() != 11 || gaussian.size() != 2 * kPafRadius + 1 || profiles.rank() != 2 ||
      profiles.dim(1) != kPafTaps || profiles.dim(0) > kPafMostTimes || ends.rank() != 2 || ends.dim(1) != 2 ||
      order.size() != opens.size()) {
    throw InvalidInput("options " + options.shape_text() + ", kernel " + gaussian.shape_text() + ", profiles " +
                       profiles.shape_text() + ", limbs " + ends.shape_text() + ", order " + order.shape_text() +
                       " and opens " + opens.shape_text() +
                       " must be [11], [25], [up to 16, 7], [limbs, 2], [steps] twice");
  }
  const double* option = options.data<double>();
  const bool exact = option[0] == kPafExact;
  const int64_t limbs = ends.dim(0), most = static_cast<int64_t>(option[9]), joints = static_cast<int64_t>(option[10]);
  if (heatmaps.rank() != 4 || fields.rank() != 4 || heatmaps.dim(0) != fields.dim(0) ||
      heatmaps.dim(1) != fields.dim(1) || heatmaps.dim(2) != fields.dim(2) || heatmaps.dim(1) < 1 ||
      heatmaps.dim(2) < 1 || heatmaps.dim(3) != joints + 1 || fields.dim(3) != 2 * limbs) {
    throw InvalidInput("heatmaps of shape " + heatmaps.shape_text() + " and fields of shape " + fields.shape_text() +
                       ": a skeleton of " + std::to_string(joints) + " joints and " + std::to_string(limbs) +
                       " limbs needs [batch, height, width, " + std::to_string(joints + 1) +
                       "] and [batch, height, width, " + std::to_string(2 * limbs) +
                       "] of the same batch, height and width");
  }
  if (most < 0) throw InvalidInput("room for " + std::to_string(most) + " people; it must be 0 or more");
  const int64_t times = exact ? static_cast<int64_t>(option[1]) : profiles.dim(0), enlarged = exact ? times : 1;
  const int64_t high = option[2] > 0 ? static_cast<int64_t>(option[2]) : heatmaps.dim(1) * enlarged;
  const int64_t wide = option[3] > 0 ? static_cast<int64_t>(option[3]) : heatmaps.dim(2) * enlarged;
  std::vector<uint8_t> opening(opens.data<bool>(), opens.data<bool>() + opens.size());
  const PafProblem problem{heatmaps.dim(0),
                           heatmaps.dim(1),
                           heatmaps.dim(2),
                           static_cast<int>(joints),
                           static_cast<int>(limbs),
                           static_cast<int>(order.size()),
                           ends.data<int32_t>(),
                           order.data<int32_t>(),
                           opening.data(),
                           gaussian.data<double>(),
                           profiles.data<float>(),
                           static_cast<int>(option[0]),
                           times,
                           high,
                           wide,
                           option[4],
                           option[5],
                           option[6],
                           option[7],
                           option[8]};
  const std::vector<PafPeople> images = decode_paf(problem, maps_of(heatmaps), maps_of(fields));

  const Tensor keypoints = call.output<float>(0, {problem.batch, most, joints, 2});
  const Tensor scores = call.output<float>(1, {problem.batch, most, joints});
  const Tensor person_scores = call.output<float>(2, {problem.batch, most});
  const Tensor counts = call.output<int32_t>(3, {problem.batch});
  std::fill_n(keypoints.data<float>(), keypoints.size(), std::numeric_limits<float>::quiet_NaN());
  std::fill_n(scores.data<float>(), scores.size(), 0.0f);
  std::fill_n(person_scores.data<float>(), person_scores.size(), 0.0f);
  for (int64_t image = 0; image < problem.batch; ++image) {
    int64_t place = image * most;
    const std::vector<int64_t> people = chosen(problem, images[image], most);
    counts.data<int32_t>()[image] = static_cast<int32_t>(people.size());
    for (int64_t person : people) {
      describe_person(problem, images[image], person, keypoints.data<float>() + place * joints * 2,
                      scores.data<float>() + place * joints, person_scores.data<float>() + place);
      ++place;
    }
  }
}

Registration here([] {
  define_op("PosekitDecodePaf", {},
            {"heatmaps: float", "pafs: float", "limbs: int32", "order: int32", "opens: bool", "gaussian: double",
             "profiles: float", "options: double"},
            {"keypoints: float", "scores: float", "person_scores: float", "counts: int32"});
  cpu_kernel<float, decode>("PosekitDecodePaf", nullptr);
});

}  // namespace
}  // namespace posekit
