// The kernels of one instruction set, by name. Included last.

namespace sampan::SAMPAN_ISA {
static constexpr Kernels table(const char* name) {
  Kernels t{};
  t.name = name;
#define SAMPAN_SET(kernel) t.kernel = kernel;
  SAMPAN_EACH_KERNEL(SAMPAN_SET)
#undef SAMPAN_SET
  return t;
}
}  // namespace sampan::SAMPAN_ISA
