// oneTBB: loops, reductions, scans, sorts, a pipeline, a concurrent map. Integers only, so that no order matters.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <thread>
#include <vector>

#include <oneapi/tbb.h>

int main() {
    constexpr std::size_t COUNT = 400000;
    tbb::global_control threads(tbb::global_control::max_allowed_parallelism, 4);
    tbb::task_arena arena(4);
    arena.execute([&] {
        // Long enough for workers to start, go where they are to be, and take their share.
        tbb::parallel_for(0, 400, [](int) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
        std::vector<std::uint64_t> values(COUNT);
        tbb::parallel_for(tbb::blocked_range<std::size_t>(0, COUNT, 1000), [&](const auto &range) {
            for (auto i = range.begin(); i != range.end(); ++i) values[i] = i * 6364136223846793005u >> 13;
        });
        auto sum = tbb::parallel_reduce(
            tbb::blocked_range<std::size_t>(0, COUNT, 1000), std::uint64_t{0},
            [&](const auto &range, std::uint64_t part) {
                for (auto i = range.begin(); i != range.end(); ++i) part += values[i];
                return part;
            },
            std::plus<>());
        auto sorted = values;
        tbb::parallel_sort(sorted.begin(), sorted.end());
        bool in_order = std::is_sorted(sorted.begin(), sorted.end());
        std::vector<std::uint64_t> sums(COUNT);
        auto scanned = tbb::parallel_scan(
            tbb::blocked_range<std::size_t>(0, COUNT, 1000), std::uint64_t{0},
            [&](const auto &range, std::uint64_t part, bool final) {
                for (auto i = range.begin(); i != range.end(); ++i) {
                    part += values[i];
                    if (final) sums[i] = part;
                }
                return part;
            },
            std::plus<>());
        tbb::concurrent_hash_map<std::uint64_t, int> counts;
        tbb::parallel_for(std::size_t{0}, std::size_t{20000}, [&](std::size_t i) {
            decltype(counts)::accessor found;
            counts.insert(found, values[i] % 1000);
            found->second++;
        });
        int counted = 0;
        for (auto &[key, count] : counts) counted += count;
        std::uint64_t piped = 0;
        int next = 0;
        tbb::parallel_pipeline(
            8, tbb::make_filter<void, int>(tbb::filter_mode::serial_in_order,
                                           [&](tbb::flow_control &flow) {
                                               if (next == 300) flow.stop();
                                               return next++;
                                           }) &
                   tbb::make_filter<int, std::uint64_t>(tbb::filter_mode::parallel,
                                                        [&](int i) { return values[std::size_t(i) * 1000]; }) &
                   tbb::make_filter<std::uint64_t, void>(tbb::filter_mode::serial_in_order,
                                                         [&](std::uint64_t value) { piped = piped * 31 + value; }));
        std::printf("%llu %d %llu %d %llu %d %llu %llu\n", (unsigned long long)sum, in_order,
                    (unsigned long long)sorted[COUNT / 2], scanned == sum, (unsigned long long)sums[COUNT / 3], counted,
                    (unsigned long long)counts.size(), (unsigned long long)piped);
    });
}
