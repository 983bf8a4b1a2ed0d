// How many threads the ops share work between.
#include "tf_ops.h"

namespace posekit {
namespace {

void threads(Call& call) { *call.output<int32_t>(0, {}).data<int32_t>() = num_threads(); }

Registration here([] {
  define_op("PosekitThreads", {}, {}, {"threads: int32"});
  cpu_kernel<int32_t, threads>("PosekitThreads", nullptr);
});

}  // namespace
}  // namespace posekit
