#include "parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

namespace posekit {
namespace {

constexpr int kMostThreads = 256;

std::atomic<int> threads{std::max(1, std::min(static_cast<int>(std::thread::hardware_concurrency()), kMostThreads))};

struct Job {
  int64_t count, grain;
  const std::function<void(int64_t, int64_t)>* work;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  int helpers = 0;  // workers inside run(), guarded by the pool's mutex
  std::exception_ptr error;

  void run() {
    for (;;) {
      const int64_t begin = next.fetch_add(grain);
      if (begin >= count) return;
      if (failed.load(std::memory_order_relaxed)) continue;
      (*work)(begin, std::min(begin + grain, count));
    }
  }
};

class Pool {
 public:
  void run(Job* job) {
    const int64_t pieces = (job->count + job->grain - 1) / job->grain;
    int wanted;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wanted = static_cast<int>(std::min<int64_t>(pieces, threads.load())) - 1;
      if (wanted > 0) {
        start(wanted);
        jobs_.push_back(job);
      }
    }
    if (wanted > 0) wake_.notify_all();
    attempt(job);
    if (wanted > 0) {
      std::unique_lock<std::mutex> lock(mutex_);
      jobs_.erase(std::find(jobs_.begin(), jobs_.end(), job));
      done_.wait(lock, [job] { return job->helpers == 0; });
    }
    if (job->error) std::rethrow_exception(job->error);
  }

 private:
  void start(int wanted) {
    for (; workers_ < wanted; ++workers_) std::thread([this] { loop(); }).detach();
  }

  void attempt(Job* job) {
    try {
      job->run();
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!job->failed.exchange(true)) job->error = std::current_exception();
    }
  }

  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Job* job = nullptr;
      wake_.wait(lock, [this, &job] {
        for (Job* other : jobs_) {
          if (other->helpers < threads.load() - 1 && other->next.load() < other->count) job = other;
        }
        return job != nullptr;
      });
      ++job->helpers;
      lock.unlock();
      attempt(job);
      lock.lock();
      if (--job->helpers == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::deque<Job*> jobs_;
  int workers_ = 0;
};

std::atomic<Pool*> current{nullptr};

// Never destroyed: workers wait in it until the process ends. A child of fork() has none of its parent's threads and
// cannot know in what state they left the mutex: it begins with a pool of its own.
Pool& pool() {
  Pool* existing = current.load();
  if (existing) return *existing;
  static std::once_flag once;
  std::call_once(once, [] {
    pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); });
  });
  Pool* made = new Pool;
  if (current.compare_exchange_strong(existing, made)) return *made;
  delete made;
  return *existing;
}

}  // namespace

void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& work) {
  if (count <= 0) return;
  grain = std::max<int64_t>(1, grain);
  if (count <= grain) {
    work(0, count);
    return;
  }
  Job job;
  job.count = count;
  job.grain = grain;
  job.work = &work;
  pool().run(&job);
}

int num_threads() { return threads.load(); }

void set_num_threads(int count) { threads.store(std::max(1, std::min(count, kMostThreads))); }

}  // namespace posekit
