// Denormals count as zero while one of these lives: `vdpbf16ps` treats them so, and what stands for it must
// too.

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace sampan::SAMPAN_ISA {

class FlushDenormals {
 public:
  FlushDenormals() : before_(mode()) { set(before_ | kFlush); }
  ~FlushDenormals() { set(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__aarch64__)
  using Mode = uint64_t;
  static constexpr Mode kFlush = Mode{1} << 24;  // FPCR.FZ
  static Mode mode() {
    Mode m;
    asm volatile("mrs %0, fpcr" : "=r"(m));
    return m;
  }
  // The clobber keeps arithmetic on memory from moving over the change.
  static void set(Mode m) { asm volatile("msr fpcr, %0" : : "r"(m) : "memory"); }
#elif defined(__x86_64__)
  using Mode = unsigned;
  static constexpr Mode kFlush = 0x8040;  // MXCSR: FTZ, DAZ
  static Mode mode() { return _mm_getcsr(); }
  static void set(Mode m) {
    asm volatile("" : : : "memory");
    _mm_setcsr(m);
    asm volatile("" : : : "memory");
  }
#else
  using Mode = int;
  static constexpr Mode kFlush = 0;
  static Mode mode() { return 0; }
  static void set(Mode) {}
#endif
  const Mode before_;
};

}  // namespace sampan::SAMPAN_ISA
