// What C++ offers for threads, in one program: std::thread, async, futures, shared_mutex, condition variables, atomics,
// thread_local objects with destructors, exceptions that cross threads. Prints the same on every run.
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <numeric>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int WORKERS = 4;

std::atomic<int> made{0}, gone{0};
struct Local {
    std::string text = "local";
    Local() { made++; }
    ~Local() { gone++; }
};
thread_local Local local;

// A pool whose workers take tasks from one queue.
class Pool {
  public:
    explicit Pool(int size) {
        for (int i = 0; i < size; i++) threads.emplace_back([this] { work(); });
    }
    ~Pool() {
        {
            std::lock_guard lock(mutex);
            closed = true;
        }
        changed.notify_all();
        for (auto &thread : threads) thread.join();
    }
    template <class F> auto submit(F task) {
        auto packed = std::make_shared<std::packaged_task<decltype(task())()>>(std::move(task));
        auto result = packed->get_future();
        {
            std::lock_guard lock(mutex);
            tasks.emplace_back([packed] { (*packed)(); });
        }
        changed.notify_one();
        return result;
    }

  private:
    void work() {
        local.text += "!";
        for (;;) {
            std::function<void()> task;
            {
                std::unique_lock lock(mutex);
                changed.wait(lock, [this] { return closed || !tasks.empty(); });
                if (tasks.empty()) return;
                task = std::move(tasks.front());
                tasks.pop_front();
            }
            task();
        }
    }
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> tasks;
    std::vector<std::thread> threads;
    bool closed = false;
};

std::uint64_t collatz(std::uint64_t from, std::uint64_t to) {
    std::uint64_t steps = 0;
    for (auto n = from; n < to; n++)
        for (auto m = n; m != 1; steps++) m = m % 2 ? 3 * m + 1 : m / 2;
    return steps;
}

void pool() {
    std::uint64_t sum = 0;
    {
        Pool workers(WORKERS);
        std::vector<std::future<std::uint64_t>> results;
        for (std::uint64_t i = 0; i < 64; i++)
            results.push_back(workers.submit([i] { return collatz(1 + i * 1000, 1 + (i + 1) * 1000); }));
        for (auto &result : results) sum += result.get();
        auto thrown = workers.submit([]() -> int { throw std::runtime_error("thrown by a worker"); });
        try {
            thrown.get();
        } catch (const std::runtime_error &error) {
            std::printf("%s\n", error.what());
        }
    }
    std::printf("steps %llu, locals %d made %d gone\n", static_cast<unsigned long long>(sum), made.load(), gone.load());
}

void table() {
    std::shared_mutex mutex;
    std::map<int, std::string> shared;
    std::vector<std::thread> threads;
    std::atomic<int> found{0};
    for (int t = 0; t < WORKERS; t++)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 300; i++) {
                if (i % 3 == 0) {
                    std::unique_lock lock(mutex);
                    shared[i * WORKERS + t] = std::to_string(i) + "/" + std::to_string(t);
                } else {
                    std::shared_lock lock(mutex);
                    found += shared.count((i - i % 3) * WORKERS + t);
                }
            }
        });
    for (auto &thread : threads) thread.join();
    std::size_t length = 0;
    for (auto &[key, text] : shared) length += text.size();
    std::printf("table %zu entries %zu bytes %d found\n", shared.size(), length, found.load());
}

std::uint64_t sum_of(const std::vector<std::uint32_t> &all, std::size_t from, std::size_t to) {
    if (to - from < 100000) return std::accumulate(all.begin() + long(from), all.begin() + long(to), std::uint64_t{0});
    auto middle = from + (to - from) / 2;
    auto left = std::async(std::launch::async, sum_of, std::cref(all), from, middle);
    auto right = sum_of(all, middle, to);
    return left.get() + right;
}

void reduce() {
    std::vector<std::uint32_t> all(1 << 20);
    std::uint32_t seed = 1;
    for (auto &one : all) one = seed = seed * 1664525u + 1013904223u;
    std::printf("sum %llu\n", static_cast<unsigned long long>(sum_of(all, 0, all.size())));
}

} // namespace

int main() {
    pool();
    table();
    reduce();
}
