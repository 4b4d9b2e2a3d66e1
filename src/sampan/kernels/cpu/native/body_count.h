// Numbers of rows and panels as compile-time constants.

namespace sampan::SAMPAN_ISA {

template <int N>
struct Count {
  constexpr operator int() const { return N; }
};

// Calls f with Count<min(n, Max)>.
template <int Max, class Fn>
static inline void with_count(int n, Fn f) {
  if constexpr (Max > 1) {
    if (n < Max) return with_count<Max - 1>(n, f);
  }
  f(Count<Max>{});
}

}  // namespace sampan::SAMPAN_ISA
