#include "parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace posekit {
namespace {

constexpr int kMostThreads = 256;

// How long a thread looks out for what is about to come before it sleeps: to be woken takes up to as long, and one op
// is often followed by the next within that time. Whoever else wants the processor meanwhile gets it.
constexpr std::chrono::microseconds kLookOut{120};

// Returns whether `come` was true within that time.
template <class Come>
bool look_out(const Come& come) {
  const auto until = std::chrono::steady_clock::now() + kLookOut;
  do {
    for (int turn = 0; turn < 16; ++turn) {
      if (come()) return true;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
    sched_yield();
  } while (std::chrono::steady_clock::now() < until);
  return false;
}

std::atomic<int> threads{std::max(1, std::min(static_cast<int>(std::thread::hardware_concurrency()), kMostThreads))};

struct Job {
  int64_t count, grain;
  const std::function<void(int64_t, int64_t)>* work;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::atomic<int> helpers{0};  // workers inside run(); changes under the pool's mutex alone
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
    int wanted, asleep = 0;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wanted = static_cast<int>(std::min<int64_t>(pieces, threads.load())) - 1;
      if (wanted > 0) {
        start(wanted);
        jobs_.push_back(job);
        ++posted_;
        asleep = std::min(wanted, sleeping_);
      }
    }
    // Whoever does not sleep finds the job by itself.
    for (; asleep > 0; --asleep) wake_.notify_one();
    attempt(job);
    if (wanted > 0) {
      std::unique_lock<std::mutex> lock(mutex_);
      jobs_.erase(std::find(jobs_.begin(), jobs_.end(), job));
      const auto left = [job] { return job->helpers.load() == 0; };
      if (!left()) {
        lock.unlock();
        look_out(left);
        lock.lock();
        done_.wait(lock, left);
      }
    }
    if (job->error) std::rethrow_exception(job->error);
  }

 private:
  void start(int wanted) {
    try {
      for (; workers_ < wanted; ++workers_) std::thread([this] { loop(); }).detach();
    } catch (const std::system_error&) {
      // The system gives no more threads: those that there are do the work.
    }
  }

  void attempt(Job* job) {
    try {
      job->run();
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!job->failed.exchange(true)) job->error = std::current_exception();
    }
  }

  // A job that can do with one more thread.
  Job* open_job() const {
    for (Job* job : jobs_) {
      if (job->helpers.load() < threads.load() - 1 && job->next.load() < job->count) return job;
    }
    return nullptr;
  }

  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Job* job = open_job();
      if (!job) {
        const uint64_t seen = posted_.load();
        lock.unlock();
        look_out([this, seen] { return posted_.load() != seen; });
        lock.lock();
        ++sleeping_;
        wake_.wait(lock, [this, &job] { return (job = open_job()) != nullptr; });
        --sleeping_;
      }
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
  std::atomic<uint64_t> posted_{0};  // jobs so far; changes under the mutex alone
  int workers_ = 0, sleeping_ = 0;
};

std::atomic<Pool*> current{nullptr};

// Never destroyed: workers wait in it until the process ends. A child of fork() has none of its parent's threads and
// cannot know in what state they left the mutex: it begins with a pool of its own.
Pool& pool() {
  Pool* existing = current.load();
  if (existing) return *existing;
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); }); });
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
