// From maps of joints and fields of limbs to people. Semantics and names: posekit/ops/decode_paf.py.
#ifndef POSEKIT_DECODE_PAF_H_
#define POSEKIT_DECODE_PAF_H_

#include <cstdint>
#include <vector>

namespace posekit {

enum PafMode { kPafExact = 0, kPafFast = 1, kPafTfPose = 2 };

constexpr int kPafRadius = 12;     // of the exact smoothing: its kernel has 25 numbers
constexpr int kPafMostTimes = 16;  // smoothed values across a cell, at most
constexpr int kPafTaps = 7;        // cells that each profile of the other smoothings weighs
constexpr int kPafEnlarged = 8;

// [batch, height, width, channels]; strides are counted in elements.
struct PafMaps {
  const float* data;
  int64_t image, row, column, channel;

  const float* at(int64_t i, int64_t y, int64_t x) const { return data + i * image + y * row + x * column; }
};

struct PafProblem {
  int64_t batch, height, width;
  int joints, limbs, steps;
  const int32_t* ends;     // [limbs, 2]: joints
  const int32_t* order;    // [steps]: limbs as they are put together
  const uint8_t* opens;    // [steps]: whether the limb may begin a person
  const double* gaussian;  // [25], exact mode
  const float* profiles;   // [times, 7], other modes
  int mode;
  int64_t times;                    // how often a cell is divided: 1 or 8 with the exact mode
  int64_t used_height, used_width;  // of the maps, enlarged in exact mode; the rest is padding
  double peak_threshold, paf_threshold, min_parts, min_score, stride;
};

struct PafPeople {
  std::vector<double> peaks;   // [peaks, 5]: joint, x, y, score, number
  std::vector<double> people;  // [people, joints + 2]
};

// One PafPeople per image. Throws InvalidInput where the problem is none, or values are not finite.
std::vector<PafPeople> decode_paf(const PafProblem& problem, const PafMaps& heatmaps, const PafMaps& fields);

// Keypoints [joints, 2] and scores [joints] of a person, and the person's own score.
void describe_person(const PafProblem& problem, const PafPeople& image, int64_t person, float* keypoints, float* scores,
                     float* person_score);

}  // namespace posekit

#endif  // POSEKIT_DECODE_PAF_H_
